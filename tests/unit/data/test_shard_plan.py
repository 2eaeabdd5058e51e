"""Which rows of the blocks go into which shard."""

from __future__ import annotations

import pytest

from raydc.data import shard_plan


@pytest.mark.parametrize("rows_per_shard", [1, 3, 10, 100])
def test_plan_shards_takes_every_row_once_and_in_order(rows_per_shard: int) -> None:
    num_rows = [[5, 0, 2], [0, 0, 0], [7, 1, 0], [1, 3, 9]]
    plan = shard_plan.plan_shards(num_rows, rows_per_shard)
    for split in range(3):
        shards = [shard for shard in plan if shard.split == split]
        taken = [
            (block, row) for shard in shards for block, a, b in shard.pieces for row in range(a, b)
        ]
        assert taken == [
            (block, row) for block, counts in enumerate(num_rows) for row in range(counts[split])
        ]
        sizes = [sum(b - a for _, a, b in shard.pieces) for shard in shards]
        assert all(size == rows_per_shard for size in sizes[:-1])
        assert [shard.index for shard in shards] == list(range(len(shards)))


def test_first_rows_keep_the_pieces_that_hold_them() -> None:
    shard = shard_plan.PlannedShard(2, 0, ((0, 3, 5), (4, 0, 7), (5, 0, 1)))
    assert shard_plan.first_rows(shard, 1).pieces == ((0, 3, 4),)
    assert shard_plan.first_rows(shard, 4).pieces == ((0, 3, 5), (4, 0, 2))
    assert shard_plan.first_rows(shard, 100) == shard
