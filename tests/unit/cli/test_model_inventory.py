"""Models and data sets of a storage: what they are, where they come from, and who uses them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from stores import DATA_HASH, make_data_set, make_run, make_storage, make_version
from test_store_listing import remote

from raydc.cli import data_inventory, inventory, main, model_inventory, run_inventory
from raydc.cli.store_listing import StoreListing
from raydc.errors import DataError, RegistryError
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking import lease
from raydc.tracking.alias_history import Move
from raydc.tracking.endpoint_record import make_record, write_record


def test_models_cost_one_listing_and_one_read_each(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    for number in range(5):
        make_run(storage, "digits", weights=b"%d" % number)
        make_version(storage)
    store, handler = remote(tmp_path)
    (model,) = model_inventory.read_models(StoreListing(store))
    assert [version.number for version in model.versions] == [1, 2, 3, 4, 5, 6]
    assert model.aliases == {"production": 1}
    assert handler.requests == [
        f"list {tmp_path}/models",
        f"read {tmp_path}/models/digits/history/00000001.json",
    ]


def test_version_names_its_run_only_while_that_holds_the_same_model(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    listing = StoreListing(storage)
    (run,) = run_inventory.read_runs(listing)
    (version,) = model_inventory.versions_of_run(listing, run)
    assert (version.run, version.run_is_here, version.aliases) == ("digits", True, ["production"])
    make_run(storage, "digits", weights=b"of another training")
    listing = StoreListing(storage)
    (run,) = run_inventory.read_runs(listing)
    assert model_inventory.versions_of_run(listing, run) == []
    (version,) = model_inventory.read_model(listing, "digits", [run]).versions
    assert (version.run, version.run_is_here) == ("digits", False)


def test_version_that_an_endpoint_uses_says_how(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    one = {
        "storage": storage.uri,
        "model": "digits",
        "alias": "production",
        "url": "http://127.0.0.1:8000",
        "version": 1,
        "canary": None,
        "shadow": SimpleNamespace(version=1, fraction=1.0),
    }
    elsewhere = {**one, "storage": "/other"}
    model = model_inventory.read_model(StoreListing(storage), "digits", [], [elsewhere, one])
    assert model.versions[0].serves == [
        "answers at http://127.0.0.1:8000",
        "shadow at http://127.0.0.1:8000",
    ]


def test_canary_is_open_from_its_start_to_its_end(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    registry = Registry(storage)
    registry.note("digits", Move("canary", "production", None, 1, "ada", "", 1.0, 0.1))
    assert inventory.running_beside(StoreListing(storage), "digits") == {
        ("production", "canary"): 1
    }
    registry.note("digits", Move("canary ended", "production", 1, None, "ada", "", 2.0))
    assert inventory.running_beside(StoreListing(storage), "digits") == {}


def test_damaged_history_and_record_are_named(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    folder = storage / "models/digits"
    folder.write_bytes("history/00000001.json", b"{")
    folder.write_bytes("versions/1.json", b"")
    listing = StoreListing(storage)
    model = model_inventory.read_model(listing, "digits", [])
    assert (model.aliases, len(model.versions), model.versions[0].run) == ({}, 1, None)
    assert sorted(line.split(":")[0] for line in listing.damaged) == [
        "models/digits/history/00000001.json",
        "models/digits/versions/1.json",
    ]


def test_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no model 'digit'"):
        model_inventory.read_model(StoreListing(make_storage(tmp_path)), "digit", [])


# Data sets --------------------------------------------------------------------------------


def data_set(storage: Storage, name: str) -> data_inventory.DataSet:
    listing = StoreListing(storage)
    return data_inventory.read_data_set(listing, name, run_inventory.read_runs(listing))


def test_data_set_is_needed_by_unfinished_runs_only(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    one = data_set(storage, "digits-0123456789ab")
    assert (one.state, one.num_rows["train"], one.num_sources) == ("complete", 8, 1)
    assert (one.runs, one.needed_by) == (["digits"], [])
    make_run(storage, "digits", finished=False, weights=b"new")
    (storage / "runs/digits").delete("events.jsonl")
    # A run that has not said which data set it uses may use any of its name.
    one = data_set(storage, "digits-0123456789ab")
    assert (one.runs, one.needed_by) == ([], ["digits"])
    make_data_set(storage, "digits-small-0123456789ab")
    assert data_set(storage, "digits-small-0123456789ab").needed_by == []


def test_data_set_of_another_name_is_needed_by_runs_of_its_content(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    make_data_set(storage, "first-0123456789ab")
    make_data_set(storage, "first-ba9876543210")
    make_run(storage, "second", finished=False)
    assert data_set(storage, "first-0123456789ab").needed_by == ["second"]
    assert data_set(storage, "first-ba9876543210").needed_by == []
    # A data set of its own name is the one that the run uses.
    make_data_set(storage, "second-0123456789ab")
    assert data_set(storage, "first-0123456789ab").needed_by == []
    assert data_set(storage, "second-0123456789ab").needed_by == ["second"]
    # What is left of a removal is used by nobody.
    (storage / "data/second-0123456789ab").delete("MANIFEST.json")
    assert data_set(storage, "first-0123456789ab").needed_by == ["second"]


def test_run_that_starts_may_need_any_data_set(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    make_data_set(storage, "first-0123456789ab")
    with lease.hold(make_run(storage, "second", finished=False, data_hash=None)):
        assert data_set(storage, "first-0123456789ab").needed_by == ["second"]
    assert data_set(storage, "first-0123456789ab").needed_by == []


def test_versions_of_any_model_name_the_data_set_they_were_trained_on(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    (storage / "models/digits/versions/1").write_json("facts.json", {"data_hash": DATA_HASH})
    own, other = "digits-0123456789ab", "other-0123456789ab"
    make_data_set(storage, other)
    listing = StoreListing(storage)
    assert data_inventory.versions_trained_on(listing, own) == ["digits 1"]
    assert data_inventory.versions_trained_on(listing, other) == []
    (storage / "data" / own).delete()
    assert data_inventory.versions_trained_on(StoreListing(storage), other) == ["digits 1"]


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b'{"format": 7, "rows": {"train": 1}}', "format 7"),
        (b'{"rows": {"train": 1}}', "format unknown"),
        (b"{", "damaged"),
        (None, "incomplete"),
    ],
)
def test_data_set_that_cannot_be_used_says_why(
    tmp_path: Path, content: bytes | None, state: str
) -> None:
    storage = make_storage(tmp_path)
    folder = storage / "data/digits-0123456789ab"
    folder.delete("MANIFEST.json")
    if content is not None:
        folder.write_bytes("MANIFEST.json", content)
    assert data_set(storage, "digits-0123456789ab").state == state


def test_large_manifest_is_read_for_details_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_inventory, "_MAX_MANIFEST_BYTES", 10)
    listing = StoreListing(make_storage(tmp_path))
    (listed,) = data_inventory.read_data_sets(listing, [])
    assert (listed.state, listed.num_rows) == ("complete", {})
    assert data_inventory.read_data_set(listing, listed.name, []).num_rows["train"] == 8


def test_unknown_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set 'x'"):
        data_set(make_storage(tmp_path), "x")


def test_model_tells_how_alias_and_endpoint_differ(tmp_path: Path) -> None:
    storage, url = make_storage(tmp_path), "http://127.0.0.1:8000"

    def notes(*endpoints: dict[str, object]) -> list[str]:
        return model_inventory.read_model(StoreListing(storage), "digits", [], endpoints).notes

    write_record(storage, "digits", make_record("production", url, "127.0.0.1:6379", 1))
    assert notes() == []
    # As a promote leaves it that is killed between the switch and the move of the alias.
    record = make_record("production", url, "127.0.0.1:6379", 1, "to version 2")
    write_record(storage, "digits", record)
    (note,) = notes()
    assert "alias 'production' stands for version 1" in note
    assert f"endpoint {url} (to version 2, begun at" in note
    assert "promote or roll back again" in note
    # As a promote leaves it that reached no Ray.
    write_record(storage, "digits", make_record("production", url, "127.0.0.1:6379", 2))
    (note,) = notes()
    assert f"its endpoint {url} was last set to version 2" in note
    # A Ray that was asked knows better than the record.
    one = {"storage": storage.uri, "model": "digits", "alias": "production", "url": url}
    asked = {**one, "version": 1, "canary": None, "shadow": None}
    assert notes(asked) == []
    (note,) = notes({**asked, "version": 3})
    assert f"its endpoint {url} answers with version 3" in note
    printed = CliRunner().invoke(main, ["models", "digits", "--storage", storage.uri])
    assert "note: digits: alias 'production' stands for version 1" in printed.output
