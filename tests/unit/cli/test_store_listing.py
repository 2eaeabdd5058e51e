"""The listing of a storage: one request for each kind, and damage that is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs as pafs
from stores import make_storage

from raydc.cli import store_listing
from raydc.cli.store_listing import StoreListing, open_listing
from raydc.errors import UsageError
from raydc.storage import Storage


class CountingHandler(pafs.FileSystemHandler):
    """A filesystem that is not local, as an object store is, and counts the requests to it."""

    def __init__(self, filesystem: pafs.FileSystem) -> None:
        self.filesystem = filesystem
        self.requests: list[str] = []

    def get_type_name(self) -> str:
        return "counting"

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        self.requests.append(f"info {paths}")
        return self.filesystem.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        self.requests.append(f"list {selector.base_dir}")
        return self.filesystem.get_file_info(selector)

    def open_input_stream(self, path: str) -> pafs.NativeFile:
        self.requests.append(f"read {path}")
        return self.filesystem.open_input_stream(path)

    def open_input_file(self, path: str) -> pafs.NativeFile:
        self.requests.append(f"read {path}")
        return self.filesystem.open_input_file(path)

    def _refuse(self, *_: object) -> None:
        raise NotImplementedError

    normalize_path = staticmethod(lambda path: path)
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse


def remote(path: Path) -> tuple[Storage, CountingHandler]:
    handler = CountingHandler(pafs.LocalFileSystem())
    storage = Storage(str(path))
    storage.filesystem = pafs.PyFileSystem(handler)
    return storage, handler


def test_listing_costs_one_request_per_kind(tmp_path: Path) -> None:
    make_storage(tmp_path)
    storage, handler = remote(tmp_path)
    listing = StoreListing(storage)
    for _ in range(2):
        assert listing.names("models") == ["digits"]
        assert "versions/1/MANIFEST.json" in listing.files("models", "digits")
        assert listing.extent("models", "digits").num_bytes > 0
    assert handler.requests == [f"list {tmp_path}/models"]


def test_extent_below_a_path_counts_its_files_only(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("runs/a/one", b"1")
    storage.write_bytes("runs/a/model/two", b"22")
    listing = StoreListing(storage)
    assert (listing.extent("runs", "a").num_bytes, listing.extent("runs", "a").num_files) == (3, 2)
    below = listing.extent("runs", "a", "model/")
    assert (below.num_bytes, below.num_files) == (2, 1)
    assert below.changed_s == pytest.approx((tmp_path / "runs/a/model/two").stat().st_mtime)
    assert listing.extent("runs", "unknown").changed_s is None


def test_torn_line_of_a_log_is_left_out(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    lines = [b'{"kind": "step", "step": %d}\n' % step for step in range(100)]
    storage.write_bytes("log.jsonl", b"".join(lines) + b'{"kind": "st')
    listing = StoreListing(storage)
    assert len(listing.read_lines("log.jsonl")) == 100
    assert listing.damaged == []


def test_files_are_read_from_the_last_to_the_first_in_growing_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_listing, "_FIRST_PART_BYTES", 2)
    monkeypatch.setattr(store_listing, "_PART_GROWTH", 2)
    monkeypatch.setattr(store_listing, "_LARGEST_PART_BYTES", 4)
    storage = Storage(str(tmp_path))
    storage.write_bytes("a", b"0123456789")
    storage.write_bytes("b", b"x")
    listing = StoreListing(storage)
    parts = list(listing.read_backwards(["a", "gone", "b"]))
    assert parts == [(b"x", True), (b"89", False), (b"4567", False), (b"0123", True)]
    assert listing.damaged == []


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe\x00"])
def test_damaged_json_is_named_and_read_as_empty(tmp_path: Path, content: bytes) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("x.json", content)
    listing = StoreListing(storage)
    assert listing.read_json("x.json") == {}
    assert listing.damaged[0].startswith("x.json: not")
    assert listing.read_json("missing.json") == {}
    assert len(listing.damaged) == 1


def test_missing_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no storage at") as caught:
        open_listing(str(tmp_path / "typo"))
    assert "--storage DIR" in str(caught.value)
    assert not (tmp_path / "typo").exists()
