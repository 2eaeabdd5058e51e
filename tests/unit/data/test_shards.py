"""Shards: gathered rows equal written rows, and damage is named."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydc.checksummed_folder import MANIFEST
from raydc.data import cold_rows, content_check, shards
from raydc.data.shard_file import shard_bytes
from raydc.errors import DataError
from raydc.features import Features, Image, Numeric, Ragged, Record, Signature
from raydc.features.table_layout import TableLayout
from raydc.storage import Storage

IMAGES = Features(
    Signature("image", (1, 4, 3), "uint8", (0.0,), (255.0,), "classification", ("a", "b")),
    "label",
    {"image": Image(4, 3, 1)},
)
VECTORS = Features(
    Signature("vector", (2,), "float32", (), (), "regression"),
    "y",
    {"a": Numeric(0.0, 0.0, 1.0), "b": Numeric(0.0, 0.0, 1.0)},
)


def _images(num_rows: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (num_rows, 1, 4, 3), dtype=np.uint8), generator.integers(
        0, 2, num_rows
    )


def _vectors(num_rows: int) -> tuple[Any, Any]:
    x = np.random.default_rng(1).normal(size=(num_rows, 2)).astype(np.float32)
    return x, x[:, 0] * 2


@pytest.mark.parametrize("num_rows_per_shard", [1, 7, 50, 1000])
@pytest.mark.parametrize(("features", "make"), [(IMAGES, _images), (VECTORS, _vectors)])
def test_gather_returns_rows_in_any_order(
    tmp_path: Path, features: Features, make: Any, num_rows_per_shard: int
) -> None:
    x, y = make(50)
    folder = Storage(str(tmp_path / "set"))
    shards.write_data_set(
        folder, features, {"train": (x, y)}, num_rows_per_shard=num_rows_per_shard
    )
    rows = shards.open_rows(folder, "train")
    positions = np.random.default_rng(2).integers(0, 50, 200)

    found_x, found_y = rows.gather(positions)

    assert len(rows) == 50
    assert found_x.dtype == x.dtype
    np.testing.assert_array_equal(found_x, x[positions])
    np.testing.assert_array_equal(found_y, y[positions])
    np.testing.assert_array_equal(rows.ids, np.arange(50))


def test_gather_copies_rows(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path / "set"))
    x, y = _images(5)
    shards.write_data_set(folder, IMAGES, {"train": (x, y)})
    rows = shards.open_rows(folder, "train")
    found, _ = rows.gather(np.array([0]))
    found[:] = 0
    np.testing.assert_array_equal(rows.gather(np.array([0]))[0], x[:1])


@pytest.mark.parametrize("num_rows_per_shard", [3, 1000])
@pytest.mark.parametrize("position", [-1, 5])
def test_gather_refuses_positions_outside(
    tmp_path: Path, num_rows_per_shard: int, position: int
) -> None:
    folder = Storage(str(tmp_path / "set"))
    shards.write_data_set(
        folder, IMAGES, {"train": _images(5)}, num_rows_per_shard=num_rows_per_shard
    )
    with pytest.raises(IndexError, match=r"\[0, 5\)"):
        shards.open_rows(folder, "train").gather(np.array([0, position]))


def test_shard_bytes_are_equal_for_equal_rows_only() -> None:
    x, y = _images(9)
    ids = np.arange(9)
    first = shards.shard_bytes(x, y, ids).to_pybytes()
    assert shards.shard_bytes(x.copy(), y.copy(), ids.copy()).to_pybytes() == first
    x[3, 0, 0, 0] ^= 1
    assert shards.shard_bytes(x, y, ids).to_pybytes() != first


def test_write_data_set_counts_row_ids_through_all_splits(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path / "set"))
    written = shards.write_data_set(folder, IMAGES, {"train": _images(6), "test": _images(2)})
    assert written["rows"] == {"train": 6, "validation": 0, "test": 2}
    assert len(shards.open_rows(folder, "validation")) == 0
    np.testing.assert_array_equal(shards.open_rows(folder, "test").ids, [6, 7])


def test_open_rows_refuses_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a prepared data set"):
        shards.open_rows(Storage(str(tmp_path)), "train")


def test_open_rows_refuses_a_manifest_of_another_version(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    folder.write_json(MANIFEST, {"format": 99})
    with pytest.raises(DataError, match="format 99, but this raydc reads 1"):
        shards.open_rows(folder, "train")


def test_open_rows_names_a_shard_of_another_size(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    shards.write_data_set(folder, IMAGES, {"train": _images(5)})
    path = tmp_path / "train-00000.arrow"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"train-00000\.arrow is damaged: expected \d+ bytes, found \d+ bytes"
    ):
        shards.open_rows(folder, "train")


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_gather_refuses_a_shard_with_a_flipped_bit(tmp_path: Path, place: float) -> None:
    x, y = _images(50)
    folder = Storage(str(tmp_path))
    shards.write_data_set(folder, IMAGES, {"train": (x, y)}, num_rows_per_shard=10)
    path = tmp_path / "train-00003.arrow"
    # Read once, so that a stamp says that it was intact.
    shards.open_rows(folder, "train").gather(np.arange(50))
    before = path.stat()
    flip(path, int(place * before.st_size))
    # As a copy that keeps times would: the time of change remains.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    rows = shards.open_rows(folder, "train")
    rows.gather(np.arange(30))
    with pytest.raises(
        DataError, match=r"train-00003\.arrow is damaged: expected sha256"
    ) as caught:
        rows.gather(np.arange(50))
    assert "then prepare it again: raydc prepare SPEC" in str(caught.value)


def test_shard_is_hashed_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    content_check._stamp_folder.cache_clear()
    folder = Storage(str(tmp_path / "set"))
    shards.write_data_set(folder, IMAGES, {"train": _images(5)})
    hashed: list[str] = []
    digest = content_check._digest
    monkeypatch.setattr(
        content_check, "_digest", lambda path: (hashed.append(path.name), digest(path))[1]
    )

    def read() -> int:
        shards.open_rows(folder, "train").gather(np.arange(5))
        return len(hashed)

    assert [read(), read()] == [1, 1]
    (stamp,) = (content_check.cache_folder() / "verified").iterdir()
    os.utime(stamp, (0.0, 0.0))
    assert [read(), read()] == [2, 2]
    # Old stamps go when a process looks for the first time.
    os.utime(stamp, (0.0, 0.0))
    content_check._stamp_folder.cache_clear()
    content_check._stamp_folder()
    assert not stamp.exists()
    # A folder of another user proves nothing.
    monkeypatch.setattr("os.getuid", lambda: 4321)
    monkeypatch.setattr(content_check, "cache_folder", lambda: tmp_path / "cache" / "theirs")
    content_check._stamp_folder.cache_clear()
    assert [read(), read()] == [3, 4]
    content_check._stamp_folder.cache_clear()


def test_damaged_copy_of_a_remote_shard_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    x, y = _images(20)
    shards.write_data_set(Storage(str(tmp_path / "set")), IMAGES, {"train": (x, y)})
    remote = _Remote(str(tmp_path / "set"))
    shards.open_rows(remote, "train").gather(np.arange(20))
    (copy,) = (tmp_path / "cache").rglob("*.arrow")
    flip(copy, 700)
    found, _ = shards.open_rows(remote, "train").gather(np.arange(20))
    np.testing.assert_array_equal(found, x)
    # The remote shard itself is damaged as well: then there is nothing to go back to.
    flip(copy, 700)
    flip(tmp_path / "set" / "train-00000.arrow", 700)
    with pytest.raises(DataError, match=r"set/train-00000\.arrow is damaged: expected sha256"):
        shards.open_rows(remote, "train").gather(np.arange(20))


class _Remote(Storage):
    """A local folder that claims to be remote and counts the shards read from it."""

    reads = 0

    @property
    def is_local(self) -> bool:
        return False

    def read_bytes(self, name: str) -> bytes:
        type(self).reads += name.endswith(".arrow")
        return super().read_bytes(name)


def test_rows_fetch_a_remote_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    x, y = _images(20)
    shards.write_data_set(
        Storage(str(tmp_path / "set")), IMAGES, {"train": (x, y)}, num_rows_per_shard=10
    )
    monkeypatch.setattr(_Remote, "reads", 0)
    remote = _Remote(str(tmp_path / "set"))
    for _ in range(2):
        rows = shards.open_rows(remote, "train")
        np.testing.assert_array_equal(rows.gather(np.arange(20)[::-1])[0], x[::-1])
    assert _Remote.reads == 2


def test_shards_import_neither_ray_nor_torch() -> None:
    code = (
        "import sys, raydc.data.shards, raydc.data.prepared, raydc.features; "
        "sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LAYOUT = TableLayout((0, 300, 0))


def _record(num_rows: int) -> Record:
    choose = np.random.default_rng(1)
    lengths = choose.integers(0, 5, num_rows)
    table = LAYOUT.store(
        [
            choose.standard_normal((num_rows, 1)).astype(np.float32),
            choose.integers(0, 301, num_rows).astype(np.uint16),
            choose.standard_normal((num_rows, 1)).astype(np.float32),
        ]
    )
    tokens = [choose.integers(0, 9, length).astype(np.uint16) for length in lengths]
    files = [choose.integers(0, 256, length).astype(np.uint8) for length in lengths[::-1]]
    series = [choose.standard_normal((length, 2)).astype(np.float32) for length in lengths]
    fields = {
        **table,
        "photo": choose.integers(0, 256, (num_rows, 3, 2, 2), dtype=np.uint8),
        "code": choose.integers(0, 256, num_rows, dtype=np.uint8),
        "tokens": Ragged.of_lists(tokens, np.empty(0, np.uint16)),
        "file": Ragged.of_lists(files, np.empty(0, np.uint8)),
        "series": Ragged.of_lists(series, np.empty((0, 2), np.float32)),
    }
    return Record(fields, LAYOUT)


def _assert_same(found: object, expected: Record) -> None:
    assert isinstance(found, Record)
    assert found.layout == expected.layout
    assert list(found.fields) == list(expected.fields)
    for name, values in expected.fields.items():
        other = found.fields[name]
        if isinstance(values, Ragged):
            assert isinstance(other, Ragged)
            np.testing.assert_array_equal(other.offsets, values.offsets)
            values, other = values.values_N, other.values_N
        assert isinstance(other, np.ndarray)
        assert other.dtype == values.dtype
        np.testing.assert_array_equal(other, values)


@pytest.mark.parametrize("per_shard", [100, 7])
def test_records_come_back_in_any_order(tmp_path: Path, per_shard: int) -> None:
    rows, y = _record(40), np.arange(40)
    shards.write_data_set(
        Storage(str(tmp_path)), VECTORS, {"train": (rows, y)}, num_rows_per_shard=per_shard
    )
    found = shards.open_rows(Storage(str(tmp_path)), "train")
    for positions in (np.arange(40), np.arange(40)[::-1], np.array([3, 3, 39, 0])):
        x, targets = found.gather(positions)
        _assert_same(x, rows[positions])
        np.testing.assert_array_equal(targets, positions)


def test_equal_records_give_equal_files() -> None:
    rows, y, ids = _record(30), np.arange(10), np.arange(10)
    parts = rows[np.arange(5, 15)], rows[5:15]
    first, second = (shard_bytes(part, y, ids).to_pybytes() for part in parts)
    assert first == second


def test_rows_without_items_come_back(tmp_path: Path) -> None:
    empty = Ragged.of_lists([np.empty(0, np.uint16)] * 3, np.empty(0, np.uint16))
    rows = Record({"tokens": empty})
    shards.write_data_set(Storage(str(tmp_path)), VECTORS, {"train": (rows, np.arange(3))})
    x, _ = shards.open_rows(Storage(str(tmp_path)), "train").gather(np.array([2, 0]))
    _assert_same(x, rows[:2])


@pytest.mark.parametrize(
    ("available", "advice", "is_collected"),
    [
        (10**9, None, False),
        (2000, mmap.MADV_SEQUENTIAL, True),
        (20, mmap.MADV_RANDOM, False),
    ],
)
def test_rows_that_do_not_fit_are_mapped_in_another_way_and_are_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: int,
    advice: int | None,
    is_collected: bool,
) -> None:
    monkeypatch.setattr(cold_rows, "available_bytes", lambda: available)
    folder, (x, y) = Storage(str(tmp_path)), _vectors(100)
    shards.write_data_set(folder, VECTORS, {"train": (x, y)}, num_rows_per_shard=30)
    asked: list[int | None] = []
    map_shard = shards.map_shard

    def recorded(path: Path, given: int | None) -> Any:
        asked.append(given)
        return map_shard(path, given)

    monkeypatch.setattr(shards, "map_shard", recorded)
    rows = shards.open_rows(folder, "train", is_shuffled=True)
    positions = np.random.default_rng(0).permutation(100)
    found_x, found_y = rows.gather(positions)
    assert np.array_equal(found_x, x[positions])
    assert np.array_equal(found_y, y[positions])
    assert asked == [advice] * 4
    assert (rows.reading.kept_rows > 0) == is_collected
    # What is read once and in order keeps the kernel's own way.
    assert shards.open_rows(folder, "train").reading is cold_rows.PLAIN
