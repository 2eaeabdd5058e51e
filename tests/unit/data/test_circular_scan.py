"""Rows of steps collected by passes over the files: which are read, when, and how many are kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raydc import order
from raydc.data import mapped_file, shards
from raydc.data.circular_scan import MOST_PARTS, CircularScan
from raydc.features import Ragged, Record
from raydc.order import Ids


class RecordedRows:
    """Rows whose values are their positions. Notes what is asked of them."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.gathered: list[Ids] = []
        self.prefetched: list[tuple[int, int]] = []
        self.forgotten: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.num_rows

    def gather(self, positions: Ids) -> tuple[Record, Ids]:
        self.gathered.append(positions)
        lists = [np.arange(position % 3, dtype=np.float32) for position in positions.tolist()]
        ragged = Ragged.of_lists(lists, np.empty(0, np.float32))
        return Record({"x": positions * 2, "list": ragged}), positions

    def prefetch(self, start: int, stop: int) -> None:
        self.prefetched.append((start, stop))

    def forget(self, start: int, stop: int) -> None:
        self.forgotten.append((start, stop))


def shuffled_steps(num_rows: int, rows_per_step: int, epochs: int) -> Iterator[Ids]:
    for epoch, step in itertools.product(range(epochs), range(-(-num_rows // rows_per_step))):
        yield order.batch_rows(3, epoch, step, num_rows, rows_per_step)


@pytest.mark.parametrize("num_kept", [1, 20, 50, 300, 5000])
@pytest.mark.parametrize("num_rows", [1, 7, 1000])
def test_steps_get_their_rows_in_order(num_rows: int, num_kept: int) -> None:
    rows = RecordedRows(num_rows)
    scan = CircularScan(rows, shuffled_steps(num_rows, 8, 3), 8, num_kept)
    found = list(scan)
    expected = list(shuffled_steps(num_rows, 8, 3))
    assert len(found) == len(expected)
    for (x, y), positions in zip(found, expected, strict=True):
        assert isinstance(x, Record)
        assert np.array_equal(y, positions)
        assert np.array_equal(x.fields["x"], positions * 2)
        assert np.array_equal(x.fields["list"].lengths, positions % 3)
    # Each row of a step is read once.
    assert sum(map(len, rows.gathered)) == 3 * num_rows


def test_rows_may_repeat_and_steps_may_be_empty() -> None:
    steps = [np.array(step, dtype=np.int64) for step in ([5, 5, 2], [], [2, 9, 5], [], [0])]
    found = [y.tolist() for _, y in CircularScan(RecordedRows(10), iter(steps), 3, 12)]
    assert found == [[5, 5, 2], [], [2, 9, 5], [], [0]]


def test_files_are_read_from_front_to_back_again_and_again() -> None:
    rows = RecordedRows(6400)
    assert len(list(CircularScan(rows, shuffled_steps(6400, 10, 2), 10, 1000))) == 1280
    starts = [start for start, _ in rows.forgotten]
    assert starts[:130] == [100 * part for part in (*range(64), *range(64), 0, 1)]
    # The kernel was pointed to a part while the one before it was read. Nobody knew of the first.
    assert rows.prefetched[: len(starts) - 1] == rows.forgotten[1:]
    assert all(np.all(np.diff(positions) >= 0) for positions in rows.gathered)


@pytest.mark.parametrize(("num_kept", "passes"), [(1000, 21), (2000, 11), (8000, 3.5)])
def test_a_pass_lasts_for_twice_the_rows_that_are_kept(num_kept: int, passes: float) -> None:
    num_rows, epochs = 6400, 6
    rows = RecordedRows(num_rows)
    scan = CircularScan(rows, shuffled_steps(num_rows, 10, epochs), 10, num_kept)
    most = read = used = 0
    for _, y in scan:
        read = sum(map(len, rows.gathered))
        used += len(y)
        most = max(most, read - used)
    # Six epochs of 6400 rows in passes of about twice `num_kept`, and one before the first step.
    assert scan.num_read / scan.num_parts == passes
    assert num_kept * 0.8 < most <= num_kept * 1.05


def test_steps_beyond_memory_are_read_one_by_one() -> None:
    scan = CircularScan(RecordedRows(100), shuffled_steps(100, 50, 1), 50, 10)
    assert (scan.num_parts, scan.steps_per_block) == (1, 1)
    assert [len(y) for _, y in scan] == [50, 50]


def test_first_parts_may_be_read_before_the_first_step() -> None:
    rows = RecordedRows(6400)
    scan = CircularScan(rows, shuffled_steps(6400, 10, 1), 10, 1000)
    assert scan.num_parts == MOST_PARTS
    for _ in range(MOST_PARTS - 1):
        scan.read_part()
    assert scan.num_read == MOST_PARTS - 1
    next(iter(scan))
    assert scan.num_read == MOST_PARTS


def test_mapped_pages_are_the_same_after_they_were_dropped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    values = np.random.default_rng(0).integers(0, 256, 1_000_000, np.uint8)
    path.write_bytes(values.tobytes())
    file = mapped_file.MappedFile(path, mapped_file.mmap.MADV_SEQUENTIAL)
    mapped = np.frombuffer(file.buffer, np.uint8)
    parts = [mapped[5:300_001], mapped[999_999:], mapped[7:7]]
    file.prefetch(parts)
    assert np.array_equal(mapped, values)
    file.forget(parts)
    assert np.array_equal(mapped, values)


def test_lists_without_items_have_no_pages(tmp_path: Path) -> None:
    lists = Ragged(np.empty(0, np.float32), np.zeros(101, np.int64))
    content = shards.shard_bytes(Record({"list": lists}), np.arange(100), np.arange(100))
    (tmp_path / "shard").write_bytes(content)
    shard = shards.map_shard(tmp_path / "shard", mapped_file.mmap.MADV_SEQUENTIAL)
    assert shard.file is not None
    # Arrow leaves their buffer out, so that they lie anywhere, mostly not in the file.
    shard.prefetch(10, 90)
    shard.forget(10, 90)
    assert shard.take(np.array([0, 99]))[1].tolist() == [0, 99]


def test_parts_of_rows_are_those_of_their_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    class OneShard:
        def __init__(self, index: int) -> None:
            self.index = index

        def prefetch(self, start: int, stop: int) -> None:
            asked.append((self.index, start, stop))

    monkeypatch.setattr(shards.Rows, "_shard", lambda self, index: OneShard(index))
    rows = shards.Rows(shards.Storage(str(tmp_path)), ["a", "b", "c"], 25, 10, {})
    rows.prefetch(3, 25)
    assert asked == [(0, 3, 10), (1, 0, 10), (2, 0, 5)]
    asked.clear()
    rows.prefetch(10, 20)
    assert asked == [(1, 0, 10)]
