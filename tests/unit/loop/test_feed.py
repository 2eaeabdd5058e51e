"""The rows of each step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training import write_pictures

from raydc import order
from raydc.data.shards import open_rows
from raydc.loop import feed
from raydc.loop.feed import Feed
from raydc.storage import Storage

CPU = torch.device("cpu")


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 200, 500])
def test_workers_together_see_the_order(tmp_path: Path, world_size: int, batch_size: int) -> None:
    rows = open_rows(write_pictures(Storage(str(tmp_path))), "train")
    feeds = [Feed(rows, 5, batch_size, 4, rank, world_size, CPU) for rank in range(world_size)]
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


def test_thread_ahead_keeps_order_and_hands_errors_over() -> None:
    assert list(feed._ahead(iter(range(50)))) == list(range(50))  # type: ignore[arg-type,comparison-overlap]

    def failing() -> object:
        yield 1
        raise ValueError("row 2")

    ahead = feed._ahead(failing())  # type: ignore[arg-type]
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="row 2"):
        next(ahead)
