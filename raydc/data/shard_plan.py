"""Which rows of the blocks go into which shard. In the driver; tasks get their shards from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raydc.data.shards import SPLITS, shard_name


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be written.

    Attributes:
        split: Index into `shards.SPLITS`.
        index: Index of the shard in its split.
        pieces: (block, start, stop) each, counted in those rows of the block that are of the split.
    """

    split: int
    index: int
    pieces: tuple[tuple[int, int, int], ...]

    @property
    def name(self) -> str:
        """File name of the shard."""
        return shard_name(SPLITS[self.split], self.index)


def plan_shards(num_rows: Sequence[Sequence[int]], rows_per_shard: int) -> list[PlannedShard]:
    """Cuts the rows of every split, in the order of the blocks, into shards of equal size.

    Args:
        num_rows: Rows of each split in each block, [blocks][splits].
        rows_per_shard: Rows of every shard but the last of a split.

    Returns:
        The shards of the first split in their order, then those of the next.
    """
    plan = []
    for split in range(len(SPLITS)):
        ends = list(itertools.accumulate((block[split] for block in num_rows), initial=0))
        for index, start in enumerate(range(0, ends[-1], rows_per_shard)):
            stop = min(start + rows_per_shard, ends[-1])
            # Blocks that overlap [start, stop), with the part of each that lies in it.
            pieces = [
                (block, max(start, first) - first, min(stop, last) - first)
                for block, (first, last) in enumerate(itertools.pairwise(ends))
                if first < stop and last > start
            ]
            plan.append(PlannedShard(split, index, tuple(pieces)))
    return plan


def first_rows(shard: PlannedShard, num_rows: int) -> PlannedShard:
    """A shard of the first rows of another one, with the pieces of blocks that hold them.

    Args:
        shard: Planned shard.
        num_rows: Rows to keep; all if it has fewer.
    """
    pieces = []
    for block, start, stop in shard.pieces:
        if num_rows <= 0:
            break
        pieces.append((block, start, min(stop, start + num_rows)))
        num_rows -= stop - start
    return replace(shard, pieces=tuple(pieces))
