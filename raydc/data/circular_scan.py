"""Rows of coming steps, collected by sequential passes over the files. Used in workers.

Rows that are read in random order cost a read of the disk each, if they do not fit into memory.
Here the files are read from front to back instead, again and again, and each part of them gives all
rows that are needed before it comes round again. A row is read in the last pass before its step, so
that it waits for half a pass on average, and a pass lasts for the steps of twice the rows that
memory holds. Databases share scans among queries in this way (circular scans: Harizopoulos,
Shkapenyuk and Ailamaki, QPipe, SIGMOD 2005).

The steps are taken in blocks. Whenever a block has been used, one more comes into sight, and one
more part of the files is read, to which the kernel was pointed one block ago.

Shape suffixes: B rows of a step, K rows of a block, W rows that a part of the files gives.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raydc.data.shard_file import take_rows
from raydc.features import Inputs
from raydc.features.record import join_rows
from raydc.order import Ids

# With more parts, less memory goes to rows that are complete too early: 3 in 100 with this number.
# With fewer, each of them gives more rows for one round of bookkeeping.
MOST_PARTS = 64
_Array = npt.NDArray[Any]
# x and y of some rows.
_RowPair = tuple[Inputs, _Array]


class ScannedRows(Protocol):
    """Rows on a disk, of which `raydc.data.shards.Rows` are one kind."""

    def __len__(self) -> int: ...

    def gather(self, positions: Ids) -> _RowPair:
        """Copies rows out of the files."""

    def prefetch(self, start: int, stop: int) -> None:
        """Makes the kernel read some neighbouring rows, without waiting for them."""

    def forget(self, start: int, stop: int) -> None:
        """Drops the pages of some neighbouring rows from memory."""


@dataclass
class _Block:
    """Steps whose rows are collected together.

    Attributes:
        sizes: Rows of each step.
        places: For each of `pieces`, where in the block its rows belong.
        pieces: The rows that have been read.
    """

    sizes: list[int]
    places: list[npt.NDArray[Any]] = field(default_factory=list)
    pieces: list[_RowPair] = field(default_factory=list)

    def rows_of_steps(self) -> Iterator[_RowPair]:
        """Yields copies of the rows of each step, once all of them have been read."""
        places_K = np.concatenate(self.places)
        back_K = np.empty(len(places_K), np.int64)
        back_K[places_K] = np.arange(len(places_K))
        x = join_rows([x for x, _ in self.pieces])
        y = np.concatenate([y for _, y in self.pieces])
        self.pieces.clear()
        for size, stop in zip(self.sizes, itertools.accumulate(self.sizes), strict=True):
            # Copies, or a step would keep the whole block in memory.
            own_B = back_K[stop - size : stop]
            yield take_rows(x, own_B), take_rows(y, own_B)


@dataclass(frozen=True)
class _Wanted:
    """Rows of a block that lie in one part of the files and are still to be read.

    Attributes:
        block: The block that needs them.
        offsets: Their positions, counted from the begin of the part, in the smallest type.
        places: Their places in the block, in the smallest type.
    """

    block: _Block
    offsets: npt.NDArray[Any]
    places: npt.NDArray[Any]


class CircularScan:
    """Yields the rows of each step, in the order of the steps.

    Args:
        rows: All rows of a split.
        steps: Positions of the rows of each step, int64 [B], in [0, len(rows)); may be endless.
        rows_per_step: Rows of a full step.
        num_kept: Rows that may be in memory at once. If they are fewer than those of two steps, a
            block is one step, and all files are read for it.

    Attributes:
        num_parts: Parts of the files, each of which is read at once.
        steps_per_block: Steps between the reading of two parts.
        num_read: Parts that have been read, those of which no row was wanted included.
    """

    def __init__(
        self, rows: ScannedRows, steps: Iterator[Ids], rows_per_step: int, num_kept: int
    ) -> None:
        self._rows, self._steps = rows, steps
        rows_per_step = max(1, rows_per_step)
        # Half of the rows of all blocks are in memory, and those of two more: one that is used,
        # and one that is nearly complete.
        most_parts = 2 * num_kept // rows_per_step - 2
        self.num_parts = max(1, min(MOST_PARTS, most_parts, len(rows)))
        self.steps_per_block = max(1, 2 * num_kept // (self.num_parts + 2) // rows_per_step)
        self.num_read = 0
        self._bounds = [part * len(rows) // self.num_parts for part in range(self.num_parts + 1)]
        self._wanted: list[list[_Wanted]] = [[] for _ in range(self.num_parts)]
        # None stands for the blocks after the last one.
        self._blocks: deque[_Block | None] = deque()

    def __iter__(self) -> Iterator[_RowPair]:
        while True:
            self.read_part()
            if self.num_read < self.num_parts:
                continue
            # All parts have been read since this block came into sight.
            block = self._blocks.popleft()
            if block is None:
                return
            yield from block.rows_of_steps()

    def read_part(self) -> None:
        """Takes one more block into sight, and reads what the next part of the files has for all.

        The first step needs `num_parts` of such readings, and each further block one more. Whoever
        wants to do something between the first readings calls this before iterating.
        """
        self._blocks.append(self._take_block())
        part = self.num_read % self.num_parts
        self.num_read += 1
        following = self.num_read % self.num_parts
        if self._wanted[following] and self.num_parts > 1:
            self._rows.prefetch(*self._bounds[following : following + 2])
        wanted, self._wanted[part] = self._wanted[part], []
        if wanted:
            self._read(wanted, self._bounds[part])
            self._rows.forget(*self._bounds[part : part + 2])

    def _take_block(self) -> _Block | None:
        """Notes where the rows of the next steps are to be found; None after the last step."""
        steps = list(itertools.islice(self._steps, self.steps_per_block))
        if not steps:
            return None
        block = _Block([len(step) for step in steps])
        positions_K = np.concatenate(steps)
        if not len(positions_K):
            # A last step of few rows leaves none for some workers, which still need their fields.
            block.places.append(positions_K)
            block.pieces.append(self._rows.gather(positions_K))
        order_K = np.argsort(positions_K)
        ordered_K = positions_K[order_K]
        cuts = np.searchsorted(ordered_K, self._bounds).tolist()
        # Two numbers for each row that is not read yet: they are worth their smallest types.
        place_type = np.min_scalar_type(len(positions_K))
        for part, (start, stop) in enumerate(itertools.pairwise(cuts)):
            if start < stop:
                first, end = self._bounds[part : part + 2]
                offsets = (ordered_K[start:stop] - first).astype(np.min_scalar_type(end - first))
                places = order_K[start:stop].astype(place_type)
                self._wanted[part].append(_Wanted(block, offsets, places))
        return block

    def _read(self, wanted: list[_Wanted], first: int) -> None:
        """Reads rows from front to back and gives each block its own."""
        offsets_W = np.concatenate([one.offsets for one in wanted]).astype(np.int64)
        order_W = np.argsort(offsets_W)
        back_W = np.empty_like(order_W)
        back_W[order_W] = np.arange(len(order_W))
        x, y = self._rows.gather(first + offsets_W[order_W])
        stops = itertools.accumulate(len(one.offsets) for one in wanted)
        for one, stop in zip(wanted, stops, strict=True):
            own = back_W[stop - len(one.offsets) : stop]
            one.block.places.append(one.places)
            one.block.pieces.append((take_rows(x, own), take_rows(y, own)))
