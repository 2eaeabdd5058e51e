"""Versions that never change, aliases that move, and a history that loses no move."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from raydc import checksummed_folder
from raydc.errors import CheckpointError, OvertakenError, RegistryError, UsageError
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking.alias_history import Move


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Storage(str(tmp_path / "store")))


def bundle(tmp_path: Path, content: str) -> Storage:
    folder = Storage(str(tmp_path / f"bundle-{content}"))
    checksummed_folder.write_checksummed(
        folder, {"weights": content.encode(), "card.md": b"# card\n"}, {"kind": "bundle"}
    )
    return folder


def with_versions(registry: Registry, tmp_path: Path, count: int) -> Registry:
    for number in range(count):
        registry.register("digits", bundle(tmp_path, f"v{number}"), {"run": f"run-{number}"})
    return registry


def test_register_numbers_versions_from_one_and_copies_the_bundle(
    registry: Registry, tmp_path: Path
) -> None:
    with_versions(registry, tmp_path, 3)
    assert registry.versions("digits") == [1, 2, 3]
    assert registry.models() == ["digits"]
    assert registry.folder("digits", 2).read_bytes("weights") == b"v1"
    source = registry.source("digits", 2)
    assert source["run"] == "run-1"
    assert len(source["digest"]) == 64


def test_register_of_the_same_bundle_returns_its_version(
    registry: Registry, tmp_path: Path
) -> None:
    with_versions(registry, tmp_path, 2)
    assert registry.register("digits", bundle(tmp_path, "v0"), {}) == 1
    assert registry.versions("digits") == [1, 2]


def test_register_refuses_a_damaged_bundle(registry: Registry, tmp_path: Path) -> None:
    folder = bundle(tmp_path, "v0")
    (folder.local_path / "weights").write_bytes(b"xx")
    with pytest.raises(CheckpointError, match="weights"):
        registry.register("digits", folder, {})
    assert registry.versions("digits") == []


def test_register_removes_a_copy_that_does_not_verify(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes, fired = Storage.write_bytes, []

    def torn(self: Storage, name: str, content: bytes) -> None:
        if name == "weights":
            fired.append(name)
            content = content[:-1]
        write_bytes(self, name, content)

    folder = bundle(tmp_path, "v0")
    monkeypatch.setattr(Storage, "write_bytes", torn)
    with pytest.raises(CheckpointError, match="weights"):
        registry.register("digits", folder, {})
    assert fired
    assert registry.versions("digits") == []
    monkeypatch.undo()
    # The bundle keeps its number, and no other one gets it.
    assert registry.register("digits", folder, {}) == 1
    assert registry.register("digits", bundle(tmp_path, "v1"), {}) == 2


def test_set_alias_records_who_moved_it_and_why(registry: Registry, tmp_path: Path) -> None:
    with_versions(registry, tmp_path, 2)
    registry.set_alias("digits", "production", 1, who="ada", why="first")
    registry.set_alias("digits", "staging", 2, who="ada", why="try it")
    registry.set_alias("digits", "production", 2, who="bob", why="better")
    assert registry.aliases("digits") == {"production": 2, "staging": 2}
    assert registry.resolve("digits", "production") == 2
    assert registry.resolve("digits", 1) == registry.resolve("digits", "1") == 1
    moves = [
        (m["kind"], m["alias"], m["from"], m["to"], m["who"], m["why"])
        for m in registry.history("digits")
    ]
    assert moves == [
        ("set", "production", None, 1, "ada", "first"),
        ("set", "staging", None, 2, "ada", "try it"),
        ("set", "production", 1, 2, "bob", "better"),
    ]


def test_set_alias_to_its_own_version_adds_no_entry(registry: Registry, tmp_path: Path) -> None:
    with_versions(registry, tmp_path, 1)
    for _ in range(2):
        registry.set_alias("digits", "production", 1)
    assert len(registry.history("digits")) == 1


def test_rollback_undoes_one_move_at_a_time(registry: Registry, tmp_path: Path) -> None:
    with_versions(registry, tmp_path, 3)
    for version in (1, 2, 3):
        registry.set_alias("digits", "production", version)
    assert registry.previous("digits", "production") == 2
    assert registry.rollback("digits", "production", who="ada", why="worse") == 2
    assert registry.rollback("digits", "production") == 1
    with pytest.raises(RegistryError, match="points to version 1 and has no move to undo") as error:
        registry.rollback("digits", "production")
    assert "There are: 1, 2, 3" in str(error.value)
    assert [move["kind"] for move in registry.history("digits")] == ["set"] * 3 + ["rollback"] * 2
    registry.set_alias("digits", "production", 3)
    assert registry.rollback("digits", "production") == 1


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        (lambda r: r.resolve("digit", "production"), "no model digit", "Did you mean digits?"),
        (
            lambda r: r.resolve("digits", "prodction"),
            "no alias 'prodction'",
            "Did you mean production?",
        ),
        (lambda r: r.resolve("digits", 7), "no version 7", "There are: 1, 2"),
        (lambda r: r.folder("digits", 7), "no version 7", "There are: 1, 2"),
        (lambda r: r.set_alias("digits", "production", 7), "no version 7", "There are: 1, 2"),
        (lambda r: r.rollback("digits", "staging"), "no alias 'staging'", "There are: production"),
        (
            lambda r: r.rollback("digits", "1"),
            "1 is a version of digits, not an alias",
            "raydc promote SPEC --version",
        ),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(
    registry: Registry, tmp_path: Path, call: Any, message: str, hint: str
) -> None:
    with_versions(registry, tmp_path, 2)
    registry.set_alias("digits", "production", 1)
    with pytest.raises(RegistryError, match=message) as error:
        call(registry)
    assert hint in str(error.value)


def test_empty_registry_has_no_models_and_says_so(registry: Registry) -> None:
    assert registry.models() == registry.versions("digits") == registry.history("digits") == []
    assert registry.aliases("digits") == {}
    with pytest.raises(RegistryError, match="It has no models yet"):
        registry.resolve("digits", "production")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_model_name_that_is_a_path_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a model"):
        registry.versions(name)


@pytest.mark.parametrize("alias", ["", "1", "a/b", "-x"])
def test_alias_that_is_no_word_is_refused(registry: Registry, tmp_path: Path, alias: str) -> None:
    with_versions(registry, tmp_path, 1)
    with pytest.raises(UsageError, match="cannot name an alias"):
        registry.set_alias("digits", alias, 1)


def _register_and_promote(uri: str, folder: str, alias: str) -> int:
    registry = Registry(Storage(uri))
    version = registry.register("digits", Storage(folder), {"run": alias})
    registry.set_alias("digits", alias, version, why=alias)
    registry.set_alias("digits", "production", version, why=alias)
    return version


def test_concurrent_writers_lose_no_version_and_no_move(registry: Registry, tmp_path: Path) -> None:
    count = 8
    jobs = [
        (registry.storage.uri, bundle(tmp_path, f"v{n}").uri, f"alias-{n}") for n in range(count)
    ]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        versions = pool.starmap(_register_and_promote, jobs)
    assert sorted(versions) == registry.versions("digits") == list(range(1, count + 1))
    aliases = registry.aliases("digits")
    assert {alias: version for alias, version in aliases.items() if alias != "production"} == {
        alias: version for (_, _, alias), version in zip(jobs, versions, strict=True)
    }
    moves = [move for move in registry.history("digits") if move["alias"] == "production"]
    assert len(moves) == count
    chain = [None, *(move["to"] for move in moves)]
    assert [move["from"] for move in moves] == chain[:-1], (
        "each move starts where the one before it ended"
    )
    assert aliases["production"] == chain[-1]


def test_change_on_an_older_state_of_the_history_is_overtaken(
    registry: Registry, tmp_path: Path
) -> None:
    with_versions(registry, tmp_path, 3)
    registry.set_alias("digits", "production", 1)
    number = registry.history_number("digits")
    Registry(registry.storage, number).set_alias("digits", "production", 2, who="ada")
    history = registry.history("digits")
    late = Registry(registry.storage, number)
    move = Move("canary", "production", None, 3, "bob", "", 1.0, 0.1)
    for change in (
        lambda: late.set_alias("digits", "production", 3),
        # Even one that would do nothing: the user has decided on another state.
        lambda: late.set_alias("digits", "production", 2),
        lambda: late.rollback("digits", "production"),
        lambda: late.remove_alias("digits", "production"),
        lambda: late.note("digits", move),
        lambda: late.require_unchanged("digits"),
    ):
        with pytest.raises(OvertakenError, match="ada recorded 'set' of alias 'production'") as hit:
            change()
        assert hit.value.exit_code == 11
    assert registry.history("digits") == history


def _promote(uri: str, number: int, version: int) -> str:
    try:
        Registry(Storage(uri), number).set_alias("digits", "production", version)
    except OvertakenError:
        return "overtaken"
    return "moved"


def test_of_two_changes_of_one_state_exactly_one_is_made(
    registry: Registry, tmp_path: Path
) -> None:
    with_versions(registry, tmp_path, 3)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for _ in range(5):
            number = registry.history_number("digits")
            at = registry.aliases("digits").get("production", 1)
            jobs = [(registry.storage.uri, number, version) for version in {1, 2, 3} - {at}]
            assert sorted(pool.starmap(_promote, jobs)) == ["moved", "overtaken"]
    assert len(registry.history("digits")) == 5


def flip(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_empty_newest_entry_of_a_history_is_left_out_and_named(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_versions(registry, tmp_path, 3)
    for version in (1, 2, 3):
        registry.set_alias("digits", "production", version)
    history = tmp_path / "store/models/digits/history"
    (history / "00000003.json").write_bytes(b"")
    assert registry.aliases("digits") == {"production": 2}
    assert (
        "00000003.json is empty and left out: the aliases are those of 00000002.json" in caplog.text
    )
    # The history goes on after it, and can be read as a whole.
    registry.set_alias("digits", "production", 1)
    assert registry.aliases("digits") == {"production": 1}
    assert [move["to"] for move in registry.history("digits")] == [1, 2, 1]
    assert (history / "00000004.json").exists()


@pytest.mark.parametrize(
    ("old", "new"), [(b"      2\n", b"      1\n"), (b'"aliases"', b'"aliasez"'), (b"{", b"[")]
)
def test_damaged_newest_entry_is_refused_by_name_with_a_way_out(
    registry: Registry, tmp_path: Path, old: bytes, new: bytes
) -> None:
    with_versions(registry, tmp_path, 2)
    for version in (1, 2):
        registry.set_alias("digits", "production", version)
    newest = tmp_path / "store/models/digits/history/00000002.json"
    flip(newest, old, new)
    for ask in (
        lambda: registry.aliases("digits"),
        lambda: registry.resolve("digits", "production"),
        lambda: registry.rollback("digits", "production"),
        lambda: registry.set_alias("digits", "production", 1),
        lambda: registry.history("digits"),
    ):
        with pytest.raises(RegistryError, match=r"00000002\.json (is damaged|cannot be)") as caught:
            ask()
        assert "delete it: then the aliases are those of the entry before it" in str(caught.value)
    newest.unlink()
    assert registry.resolve("digits", "production") == 1


def test_damaged_record_of_a_version_is_named(registry: Registry, tmp_path: Path) -> None:
    with_versions(registry, tmp_path, 1)
    flip(tmp_path / "store/models/digits/versions/1.json", b"run-0", b"run-9")
    with pytest.raises(RegistryError, match=r"versions/1\.json is damaged: expected sha256"):
        registry.source("digits", 1)


def test_version_whose_record_is_lost_is_never_replaced(registry: Registry, tmp_path: Path) -> None:
    with_versions(registry, tmp_path, 2)
    (tmp_path / "store/models/digits/versions/2.json").unlink()
    assert registry.register("digits", bundle(tmp_path, "v7"), {}) == 3
    assert registry.folder("digits", 2).read_bytes("weights") == b"v1"
    # Its manifest still says what it is.
    assert registry.register("digits", bundle(tmp_path, "v1"), {}) == 2


@pytest.mark.parametrize("name", ["weights", checksummed_folder.MANIFEST])
@pytest.mark.parametrize("content", [b"torn", None])
def test_register_of_the_same_bundle_repairs_its_damaged_copy(
    registry: Registry, tmp_path: Path, name: str, content: bytes | None
) -> None:
    with_versions(registry, tmp_path, 2)
    path = tmp_path / "store/models/digits/versions/1" / name
    path.unlink() if content is None else path.write_bytes(content)
    if name == checksummed_folder.MANIFEST and content is None:
        with pytest.raises(RegistryError, match=r"versions/1/MANIFEST\.json is missing") as caught:
            registry.folder("digits", 1)
        assert "raydc run SPEC --resume" in str(caught.value)
    assert registry.register("digits", bundle(tmp_path, "v0"), {}) == 1
    checksummed_folder.read_checksummed(registry.folder("digits", 1))


def test_same_bundle_registered_twice_at_once_has_one_version(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, create, begun = bundle(tmp_path, "v0"), Storage.create_bytes, []

    def beside(store: Storage, name: str, content: bytes) -> bool:
        # Another process has looked for the bundle too, and takes its number just before.
        if not begun:
            begun.append(name)
            assert create(store, name, content)
        return create(store, name, content)

    monkeypatch.setattr(Storage, "create_bytes", beside)
    assert registry.register("digits", one, {}) == 1
    assert begun == ["versions/1.json"]
    # A third one comes before the copy of the first has begun.
    registry.folder("digits", 1).delete()
    assert registry.register("digits", one, {}) == 1
    assert registry.versions("digits") == [1]
    assert (tmp_path / "store/models/digits/versions").joinpath("2.json").exists() is False


def test_removed_version_is_not_given_back(registry: Registry, tmp_path: Path) -> None:
    with_versions(registry, tmp_path, 1)
    registry.folder("digits", 1).delete()
    # The record of a copy that another process may still begin is only seconds old.
    record = Storage(str(tmp_path / "store/models/digits/versions")).read_json("1.json")
    Storage(str(tmp_path / "store/models/digits/versions")).write_json(
        "1.json", {**record, "time_s": record["time_s"] - 3600.0}
    )
    assert registry.register("digits", bundle(tmp_path, "v0"), {}) == 2
