"""The batches of each step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from records import write_records
from training import write_line, write_pictures

from raydc import order
from raydc.data.circular_scan import MOST_PARTS
from raydc.data.cold_rows import PLAIN, Reading
from raydc.data.shards import Rows, open_rows
from raydc.loop.feed import Feed, read_ahead
from raydc.loop.group import World
from raydc.models.row_tensors import RowTensors
from raydc.storage import Storage

CPU = torch.device("cpu")
BATCH_ROWS = 256
FOLDERS = {"pictures": write_pictures, "line": write_line, "records": write_records}


class VirtualRows:
    """More rows than could be stored."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def gather(self, ids: order.Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return ids[:, None], ids


def tensors_of(x: RowTensors) -> list[torch.Tensor]:
    """The tensors of rows, in the order of their fields."""
    if isinstance(x, torch.Tensor):
        return [x]
    fields = x.fields.values()
    return [
        part
        for one in fields
        for part in (
            [one]
            if isinstance(one, torch.Tensor)
            else [one.values_N, torch.from_numpy(one.offsets)]
        )
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 200, 500])
def test_batches_of_all_workers_together_follow_the_order(
    tmp_path: Path, world_size: int, batch_size: int
) -> None:
    rows = open_rows(write_pictures(Storage(str(tmp_path))), "train")
    feeds = [
        Feed(rows, 5, batch_size, 4, World(rank, world_size, CPU)) for rank in range(world_size)
    ]
    num_steps = order.num_steps(len(rows), batch_size)
    start = num_steps // 3
    together = zip(*(feed.batches(2, start, num_steps) for feed in feeds), strict=True)
    count = 0
    for step, batches in enumerate(together, start=start):
        ids = order.batch_rows(5, 2, step, len(rows), batch_size)
        x, y_B = rows.gather(ids)
        assert all(np.array_equal(batch.ids_G, ids) for batch in batches)
        assert np.array_equal(np.concatenate([batch.x for batch in batches]), x)
        assert np.array_equal(np.concatenate([batch.y_B for batch in batches]), y_B)
        shards = [
            (shard, len(range(*part.indices(10**9)))) for b in batches for shard, part in b.shards
        ]
        cuts = [
            (i, c.stop - c.start)
            for i, c in enumerate(order.logical_shards(len(ids), 4))
            if c.stop > c.start
        ]
        assert shards == cuts
        count += 1
    assert count == num_steps - start


@pytest.mark.parametrize("reads_first", [False, True])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("rows_of", [*FOLDERS])
def test_rows_collected_in_passes_give_the_batches_of_the_plain_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
    rows_of: str,
    reads_first: bool,
) -> None:
    rows = open_rows(FOLDERS[rows_of](Storage(str(tmp_path))), "train")
    for rank in range(world_size):
        plain = Feed(rows, 5, 7, 4, World(rank, world_size, CPU))
        num_steps = order.num_steps(len(rows), 7)
        places = [(1, 2, num_steps), (2, 0, num_steps), (3, 0, 3)]
        monkeypatch.setattr(Rows, "reading", PLAIN)
        expected = [batch for place in places for batch in plain.batches(*place)]
        monkeypatch.setattr(Rows, "reading", Reading(None, 20, "small"))
        feed = Feed(rows, 5, 7, 4, World(rank, world_size, CPU))
        if reads_first:
            # The same number of times, however few parts the files have.
            assert len([*feed.read_first(num_steps + 2, 3 * num_steps + 3)]) == MOST_PARTS
        found = [batch for place in places for batch in feed.batches(*place)]
        assert len(found) == len(expected) == 2 * num_steps + 1
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a.ids_G, b.ids_G)
            assert a.shards == b.shards
            assert torch.equal(a.y_B, b.y_B)
            for x, y in zip(tensors_of(a.x), tensors_of(b.x), strict=True):
                assert torch.equal(x, y)


def test_passes_go_on_into_the_next_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_rows(write_pictures(Storage(str(tmp_path))), "train")
    monkeypatch.setattr(Rows, "reading", Reading(None, len(rows) // 4, "small"))
    gathered: list[int] = []
    plain = Rows.gather

    def counting(self: Rows, positions: order.Ids) -> object:
        gathered.append(len(positions))
        return plain(self, positions)

    monkeypatch.setattr(Rows, "gather", counting)
    feed = Feed(rows, 5, 2, 2, World(0, 1, CPU))
    steps = feed.steps_per_epoch
    for _ in feed.read_first(0, 2 * steps):
        pass
    numbers = []
    for epoch in range(2):
        assert len([*feed.batches(epoch, 0, steps)]) == steps
        numbers.append(sum(gathered))
        gathered.clear()
    # Some rows of the second epoch are read in the first one, and none of a third.
    assert numbers[0] > len(rows)
    assert sum(numbers) == 2 * len(rows)
    # A jump, as after another state, begins anew.
    batch = next(feed.batches(1, 3, steps))
    assert np.array_equal(batch.ids_G, order.batch_rows(5, 1, 3, len(rows), 2))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_batches_from_the_middle_compute_no_order_before_it(
    monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    feed = Feed(VirtualRows(10**9), 3, BATCH_ROWS, 4, World(0, 1, CPU))  # type: ignore[arg-type]
    permute, num_positions = order.permute, []

    def counting(positions: order.Ids, num_rows: int, seed: int, epoch: int) -> order.Ids:
        num_positions.append(len(positions))
        return permute(positions, num_rows, seed, epoch)

    monkeypatch.setattr(order, "permute", counting)
    start = int(feed.steps_per_epoch * fraction)
    first = next(iter(feed.batches(1, start, feed.steps_per_epoch)))
    assert sum(num_positions) <= 64 * BATCH_ROWS
    monkeypatch.setattr(order, "permute", permute)
    np.testing.assert_array_equal(first.ids_G, order.batch_rows(3, 1, start, 10**9, BATCH_ROWS))


def test_describe_rows_of_a_large_step_names_the_first_rows() -> None:
    feed = Feed(VirtualRows(1000), 3, BATCH_ROWS, 4, World(1, 2, CPU))  # type: ignore[arg-type]
    text, ids = feed.describe_rows(0, 1), feed.ids_of(0, 1)
    assert text.startswith(f"its 128 training rows there: {ids[0]}, {ids[1]}, ")
    assert text.endswith(f"{ids[63]}, ...")


def test_read_ahead_keeps_the_order_of_items() -> None:
    assert list(read_ahead(iter(range(50)))) == list(range(50))


def test_read_ahead_raises_an_error_after_the_items_before_it() -> None:
    def failing() -> object:
        yield 1
        raise ValueError("row 2")

    ahead = read_ahead(failing())  # type: ignore[arg-type,var-annotated]
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="row 2"):
        next(ahead)
