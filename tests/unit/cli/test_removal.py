"""`raydc rm`: dry without --yes, refused while in use, and never half of something whole."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stores import make_data_set, make_run, make_storage, make_version

from raydc import checksummed_folder
from raydc.checkpoint import run_name
from raydc.cli import inventory, main, removal, run_inventory
from raydc.cli.store_listing import StoreListing
from raydc.errors import RegistryError, RunError
from raydc.registry import Registry
from raydc.serve.control import recorded_endpoint
from raydc.storage import Storage
from raydc.tracking import lease
from raydc.tracking.alias_history import Move
from raydc.tracking.endpoint_record import make_record, write_record


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return make_storage(tmp_path / "store")


@pytest.fixture(autouse=True)
def endpoints(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the Ray of this test serves; it is asked instead of one."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(inventory, "query_endpoints", lambda address: found)
    return found


def rm(storage: Storage, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["rm", *arguments, "--storage", storage.uri])


def all_files(storage: Storage) -> set[str]:
    root = storage.local_path
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def served(storage: Storage, version: int = 1, **more: Any) -> dict[str, Any]:
    url = "http://127.0.0.1:8000"
    names = {"storage": storage.uri, "model": "digits", "alias": "production", "url": url}
    return {**names, "version": version, "canary": None, "shadow": None, **more}


def make_old(folder: Storage) -> None:
    """Makes all files of a folder an hour older, so that no process seems to write them."""
    for path in folder.local_path.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.mark.parametrize(
    "arguments",
    [("run", "digits"), ("data", "digits-0123456789ab"), ("alias", "digits", "production")],
)
def test_rm_without_yes_changes_nothing(storage: Storage, arguments: tuple[str, ...]) -> None:
    before = all_files(storage)
    done = rm(storage, *arguments)
    assert done.exit_code == 0, done.output
    assert "would remove" in done.output
    assert "Nothing was removed. Add --yes" in done.output
    assert all_files(storage) == before


def test_rm_run_keeps_versions_and_data(storage: Storage) -> None:
    done = rm(storage, "run", "digits", "--yes")
    assert done.exit_code == 0, done.output
    assert "digits version 1 came from it and stays" in done.output
    assert storage.names("runs") == []
    assert Registry(storage).versions("digits") == [1]
    assert storage.names("data") == ["digits-0123456789ab"]


def test_rm_run_is_refused_while_a_driver_holds_it(storage: Storage) -> None:
    with lease.hold(storage / "runs" / "digits"):
        done = rm(storage, "run", "digits", "--yes")
    assert done.exit_code == 5
    assert "is in use: process" in done.output
    assert "Stop that process first" in done.output
    assert storage.exists("runs/digits/resolved.yaml")


def test_rm_run_holds_the_run_while_it_deletes(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, drivers = Storage.move, []

    def observe(self: Storage, name: str, new_name: str) -> None:
        drivers.append(lease.read_driver(storage / "runs" / "digits"))
        move(self, name, new_name)

    monkeypatch.setattr(Storage, "move", observe)
    assert rm(storage, "run", "digits", "--yes").exit_code == 0
    assert [driver is not None and driver.pid for driver in drivers] == [os.getpid()]


def test_rm_data_is_refused_while_an_unfinished_run_needs_it(storage: Storage) -> None:
    make_run(storage, "digits", finished=False)
    (storage / "runs/digits").delete("events.jsonl")
    done = rm(storage, "data", "digits-0123456789ab", "--yes")
    assert (done.exit_code, "raydc rm run digits --yes" in done.output) == (3, True), done.output
    assert storage.exists(f"data/digits-0123456789ab/{checksummed_folder.MANIFEST}")
    assert rm(storage, "run", "digits", "--yes").exit_code == 0
    assert rm(storage, "data", "digits-0123456789ab", "--yes").exit_code == 0
    assert storage.names("data") == []


def test_rm_checks_all_names_before_it_deletes_any(storage: Storage) -> None:
    make_run(storage, "other")
    done = rm(storage, "run", "other", "unknown", "--yes")
    assert done.exit_code == 5
    assert storage.exists("runs/other/resolved.yaml")


def test_rm_version_is_refused_while_an_alias_stands_for_it(storage: Storage) -> None:
    for arguments in (("model", "digits", "--version", "1"), ("model", "digits")):
        done = rm(storage, *arguments, "--yes")
        assert (done.exit_code, "alias 'production' stands for it" in done.output) == (7, True)
    assert Registry(storage).versions("digits") == [1]


@pytest.mark.parametrize("role", ["version", "canary", "shadow"])
def test_rm_version_is_refused_while_an_endpoint_uses_it(
    storage: Storage, endpoints: list[dict[str, Any]], role: str
) -> None:
    make_run(storage, "digits", weights=b"second")
    assert make_version(storage) == 2
    share = type("Share", (), {"version": 2})()
    endpoints.append(served(storage, 2) if role == "version" else served(storage, **{role: share}))
    done = rm(storage, "model", "digits", "--version", "2", "--yes")
    assert (done.exit_code, "http://127.0.0.1:8000" in done.output) == (7, True), done.output
    endpoints[0]["storage"] = "/another"
    assert rm(storage, "model", "digits", "--version", "2", "--yes").exit_code == 0
    assert Registry(storage).versions("digits") == [1]


def test_rm_version_heeds_the_history_if_no_ray_is_found(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(storage, "digits", weights=b"second")
    make_version(storage)
    move = Move("canary", "production", None, 2, "ada", "", 1.0, 0.1)
    Registry(storage).note("digits", move)
    monkeypatch.setattr(inventory, "query_endpoints", lambda address: None)
    done = rm(storage, "model", "digits", "--version", "2", "--yes")
    assert done.exit_code == 7
    assert "lists it as canary of 'production'" in done.output
    assert "raydc canary SPEC --drop" in done.output
    # A running Ray that serves no canary is authoritative.
    monkeypatch.setattr(inventory, "query_endpoints", lambda address: [])
    assert rm(storage, "model", "digits", "--version", "2", "--yes").exit_code == 0


@pytest.mark.parametrize("arguments", [(), ("--version", "2")])
def test_rm_model_is_refused_if_its_history_cannot_be_read(
    storage: Storage, arguments: tuple[str, ...]
) -> None:
    make_run(storage, "digits", weights=b"second")
    make_version(storage)
    (storage / "models/digits/history").write_bytes("00000001.json", b"{")
    done = rm(storage, "model", "digits", *arguments, "--yes")
    assert (done.exit_code, "00000001.json cannot be read" in done.output) == (7, True)
    assert Registry(storage).versions("digits") == [1, 2]


def test_removed_version_keeps_its_number_and_ends_rollback(storage: Storage) -> None:
    make_run(storage, "digits", weights=b"second")
    make_version(storage)
    Registry(storage).set_alias("digits", "production", 2)
    done = rm(storage, "model", "digits", "--version", "1", "--yes")
    assert done.exit_code == 0, done.output
    assert "alias 'production' can then not be rolled back" in done.output
    with pytest.raises(RegistryError, match=r"version 1 of digits, which .* before, was removed"):
        Registry(storage).rollback("digits", "production")
    make_run(storage, "digits", weights=b"third")
    assert make_version(storage) == 3


def test_rm_alias_then_model_removes_all_of_it(
    storage: Storage, endpoints: list[dict[str, Any]]
) -> None:
    endpoints.append(served(storage))
    refused = rm(storage, "alias", "digits", "production", "--yes")
    assert (refused.exit_code, "raydc stop SPEC" in refused.output) == (7, True)
    endpoints[0]["storage"] = "/another"  # It has a model of the same name.
    assert rm(storage, "alias", "digits", "production", "--yes").exit_code == 0
    assert Registry(storage).aliases("digits") == {}
    assert Registry(storage).history("digits")[-1]["kind"] == "removed"
    done = rm(storage, "model", "digits", "--yes")
    assert done.exit_code == 0, done.output
    assert storage.names("models") == []


# Interrupted removals ---------------------------------------------------------------------


@pytest.mark.parametrize("remote", [False, True])
def test_interrupted_removal_leaves_nothing_whole(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    Registry(storage).remove_alias("digits", "production")
    if remote:  # An object store has no rename.
        monkeypatch.setattr(Storage, "is_local", False)
        monkeypatch.setattr(lease, "_SETTLE_S", 0.0)
        monkeypatch.setattr(Storage, "local_path", property(lambda self: Path(self.root)))
    delete, calls = Storage.delete, []

    def dies(self: Storage, name: str = "") -> None:
        calls.append(name)
        if not name:  # The folder itself, after what makes it look whole.
            raise OSError(5, "killed here", self.root)
        delete(self, name)

    commands = [("run", "digits"), ("data", "digits-0123456789ab"), ("model", "digits")]
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", dies)
        for command in commands:
            assert rm(storage, *command, "--yes").exit_code == 5
    assert calls.count("") == 3
    left = {path.rsplit("/", 1)[-1] for path in all_files(storage)}
    assert not left & {
        checksummed_folder.MANIFEST,
        "resolved.yaml",
        "events.jsonl",
        "metrics.jsonl",
    }
    assert "train-00000.arrow" in left
    assert Registry(storage).models() == []
    make_old(storage)
    listing = StoreListing(storage)
    for kind, command in (("runs", "run"), ("data", "data"), ("models", "model")):
        for name in listing.names(kind):  # type: ignore[arg-type]
            done = rm(storage, command, name, "--yes")
            assert done.exit_code == 0, done.output
    assert all_files(storage) == set()


def test_version_stays_if_an_alias_moves_to_it_meanwhile(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(storage, "digits", weights=b"second")
    make_version(storage)
    carry_out = removal.carry_out

    def after_a_promote(to: Storage, one: removal.Removal) -> None:
        Registry(to).set_alias("digits", "staging", 2)
        carry_out(to, one)

    monkeypatch.setattr(removal, "carry_out", after_a_promote)
    done = rm(storage, "model", "digits", "--version", "2", "--yes")
    assert (done.exit_code, "was moved to version 2 meanwhile" in done.output) == (7, True)
    assert Registry(storage).versions("digits") == [1, 2]


def test_incomplete_data_set_that_changed_just_now_is_left_alone(storage: Storage) -> None:
    folder = make_data_set(storage, "new-0123456789ab")
    folder.delete(checksummed_folder.MANIFEST)
    done = rm(storage, "data", "new-0123456789ab", "--yes")
    assert (done.exit_code, "may still write it" in done.output) == (3, True), done.output
    make_old(folder)
    assert rm(storage, "data", "new-0123456789ab", "--yes").exit_code == 0


def test_new_run_does_not_start_in_the_rest_of_a_removed_one(storage: Storage) -> None:
    folder = storage / "runs" / "digits"
    folder.delete("resolved.yaml")
    with pytest.raises(RunError, match="parts of a run") as caught:
        run_name._refuse_leftovers(folder, "digits")
    assert "raydc rm run digits --yes" in str(caught.value)
    assert run_inventory.read_run(StoreListing(storage), "digits").state == "incomplete"


# Nothing outside the storage --------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside", "..", ".", "/etc", "a/b", ""])
def test_rm_takes_no_paths(storage: Storage, name: str) -> None:
    outside = storage.local_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "precious").touch()
    for command, code in (("run", 5), ("data", 3), ("model", 7)):
        assert rm(storage, command, name, "--yes").exit_code == code
    assert (outside / "precious").exists()


def test_rm_follows_no_links(storage: Storage) -> None:
    outside = storage.local_path.parent / "outside"
    make_run(Storage(str(outside)), "x")
    (storage.local_path / "runs" / "linked").symlink_to(outside / "runs" / "x")
    (storage.local_path / "runs" / "digits" / "inner").symlink_to(outside)
    refused = rm(storage, "run", "linked", "--yes")
    assert (refused.exit_code, "is a symbolic link" in refused.output) == (2, True)
    assert rm(storage, "run", "digits", "--yes").exit_code == 0
    assert (outside / "runs/x/resolved.yaml").exists()


def test_rm_is_refused_while_an_endpoint_on_another_ray_answers(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(storage, "digits", weights=b"second")
    make_version(storage)
    url = "http://127.0.0.1:8001"
    write_record(storage, "digits", make_record("old", url, "127.0.0.1:6380", 2))
    Registry(storage).set_alias("digits", "old", 1)
    removals = [
        ("model", "digits", "--version", "2"),
        ("model", "digits"),
        ("alias", "digits", "old"),
    ]
    monkeypatch.setattr(recorded_endpoint, "answering_version", lambda *_: 2)
    for arguments in removals:
        refused = rm(storage, *arguments, "--yes")
        assert refused.exit_code == 7, refused.output
    assert f"{url} answers with it" in refused.output
    # It has ended without a word.
    monkeypatch.setattr(recorded_endpoint, "answering_version", lambda *_: None)
    assert rm(storage, *removals[0], "--yes").exit_code == 0
    assert rm(storage, *removals[2], "--yes").exit_code == 0
