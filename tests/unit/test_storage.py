"""Folders on a path and on a URI: atomic writes, names, and JSON."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest

from raydc.errors import UsageError
from raydc.storage import Storage, canonical_json, split_query


@pytest.fixture(params=["path", "uri"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "path" else tmp_path.as_uri())


def test_storage_reads_lists_moves_and_deletes_what_it_wrote(store: Storage) -> None:
    store.write_bytes("a/b.bin", b"123")
    (store / "a").write_json("c.json", {"x": [1, 2]})
    assert store.read_bytes("a/b.bin") == b"123"
    assert store.read_json("a/c.json") == {"x": [1, 2]}
    assert store.names("a") == ["b.bin", "c.json"]
    assert (store.exists("a"), store.exists("z"), store.names("z")) == (True, False, [])
    assert store.names("a/b.bin") == []
    assert store.size("a/b.bin") == 3
    store.move("a", "m")
    assert store.names() == ["m"]
    store.delete("m")
    store.delete("m")
    assert store.names() == []


def test_folder_made_during_the_listing_is_empty(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_meanwhile(selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        raise FileNotFoundError(selector.base_dir)

    monkeypatch.setattr(store, "filesystem", SimpleNamespace(get_file_info=made_meanwhile))
    assert store.names("a") == []


def test_write_bytes_that_fails_leaves_the_old_content(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes("x", b"old")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        store.write_bytes("x", b"new")
    assert store.read_bytes("x") == b"old"
    assert store.names() == ["x"]


def test_create_bytes_lets_only_the_first_write(store: Storage) -> None:
    assert store.create_bytes("n", b"1")
    assert not store.create_bytes("n", b"2")
    assert store.read_bytes("n") == b"1"
    assert store.names() == ["n"]


def test_created_file_is_synced_before_it_has_its_name(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    link, fsync = os.link, os.fsync
    monkeypatch.setattr("os.fsync", lambda number: (calls.append("sync"), fsync(number)))
    monkeypatch.setattr("os.link", lambda *names: (calls.append("link"), link(*names)))
    assert store.create_bytes("n", b"1")
    # The content, its name, the folder of the name.
    assert calls == ["sync", "link", "sync"]


def test_storage_is_pickled_as_its_uri(store: Storage) -> None:
    copy = pickle.loads(pickle.dumps(store / "deep"))  # noqa: S301 - Ray moves arguments pickled
    assert copy.uri == (store / "deep").uri


def test_subfolder_of_a_uri_keeps_its_query_at_the_end() -> None:
    folder = (
        Storage("s3://bucket/runs?endpoint_override=localhost:9&scheme=http&region=eu") / "data"
    )
    assert folder.uri == "s3://bucket/runs/data?endpoint_override=localhost:9&scheme=http&region=eu"
    assert folder.root == "bucket/runs/data"
    assert not folder.is_local


def test_storage_refuses_an_unknown_scheme() -> None:
    with pytest.raises(UsageError, match="nowhere://x"):
        Storage("nowhere://x")


def test_canonical_json_sorts_keys_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


PRINTABLE = [chr(code) for code in range(32, 127) if chr(code) != "/"]


def test_local_folder_may_have_any_printable_character(tmp_path: Path) -> None:
    for character in [*PRINTABLE, "\u00e9", "".join(PRINTABLE)]:
        store = Storage(f"{tmp_path}/a{character}b")
        inner = store / f"x{character}y" / "z"
        inner.write_bytes(f"{character}.bin", b"1")
        assert inner.local_path == tmp_path / f"a{character}b" / f"x{character}y" / "z"
        assert (inner.local_path / f"{character}.bin").read_bytes() == b"1"
        restored = pickle.loads(pickle.dumps(inner))  # noqa: S301
        assert restored.uri == inner.uri
        assert store.names() == [f"x{character}y"]
        assert restored.names() == [f"{character}.bin"]


def test_query_of_a_uri_stays_at_its_end() -> None:
    assert split_query("s3://bucket/a?region=b&c=?") == ("s3://bucket/a", "?region=b&c=?")
    assert split_query("/a?b/c") == ("/a?b/c", "")
