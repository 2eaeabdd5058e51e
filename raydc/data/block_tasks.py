"""What a preparation does with blocks, in tasks of Ray Data or in the driver (`run_placed`).

Each function resolves references to blocks and hands the tables to pure code.
Results are plain JSON values, as `tasks.run_calls` requires.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raydc.data import (
    clean,
    rank_search,
    row_faults,
    shard_writer,
    split_rules,
    tasks,
    values,
    window_fit,
)
from raydc.data.clean import Cleaner
from raydc.data.column_scan import scan_block
from raydc.data.row_faults import FaultFinder
from raydc.data.shard_plan import PlannedShard, first_rows
from raydc.data.shard_writer import ShardRows
from raydc.data.tasks import BlockRef
from raydc.storage import Storage


def read_pieces(pieces: Sequence[Callable[[], Iterable[pa.Table]]]) -> Iterable[pa.Table]:
    """Yields the tables of some pieces of the sources, one piece after the other."""
    for piece in pieces:
        yield from piece()


def scan(block: BlockRef) -> dict[str, Any]:
    """Scans the columns of a block; `BlockScan.from_json` reads the result."""
    return scan_block(tasks.fetch(block)).to_json()


def measure(block: BlockRef, cleaner: Any) -> dict[str, Any]:
    """Measures the rows of a block; `RowStatistics.from_json` reads the result.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Reference to the `Cleaner`, whose list of duplicates may be long.
    """
    return window_fit.measure_block(tasks.fetch(block), tasks.fetch(cleaner)).to_json()


def list_faults(block: BlockRef, finder: FaultFinder) -> dict[str, Any]:
    """Counts and lists the rows of a block that cannot be used; `Refused.merge` reads the result.

    Args:
        block: Reference to the raw rows of one block.
        finder: Decides which cells are faults; it has the spec and the splits.
    """
    return row_faults.refused_in(tasks.fetch(block), finder)


def find_named_splits(block: BlockRef, cleaner: Any) -> list[int]:
    """Codes of the splits that kept rows of a block name in the column of the split.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Reference to the `Cleaner`.
    """
    table, known = tasks.fetch(block), tasks.fetch(cleaner)
    codes = split_rules.named_codes(values.column_of(table, known.rule.column))
    return list(np.unique(codes[known.is_split(table)]).tolist())


def count_keys(block: BlockRef, series: Any) -> dict[str, int]:
    """Counts the keys of each series of a block.

    Args:
        block: Reference to the raw rows of one block.
        series: Reference to what gives the keys.
    """
    found = tasks.fetch(series).keys(tasks.fetch(block))
    return {name: len(keys) for name, keys in found.items()}


def count_digits(
    block: BlockRef, series: Any, heads: dict[str, list[int]], level: int, bits: int
) -> rank_search.Counts:
    """Counts the keys of a block by their first digits; see `rank_search.count_digits`.

    Args:
        block: Reference to the raw rows of one block.
        series: Reference to what gives the keys.
        heads: First digits of the keys that are counted, by series.
        level: Number of digits that are known already.
        bits: Bits of a digit: `FEW_RANKS` or `MANY_RANKS`.
    """
    keys = tasks.fetch(series).keys(tasks.fetch(block))
    return rank_search.count_digits(keys, heads, level, bits)


def find_most_frequent(
    blocks: Sequence[BlockRef], series: Any, part: int, num_parts: int
) -> dict[str, Any]:
    """Finds the most frequent key of each series among those of one part.

    Args:
        blocks: References to all blocks, because equal keys may be in any of them.
        series: Reference to what gives the keys.
        part: Number of the part to count, from 0.
        num_parts: Number of tasks, which bounds the different keys that one holds at once.

    Returns:
        Key and count of each series that has one; `rank_search.merge_most_frequent` reads them.
    """
    total: dict[str, Counter[int]] = {}
    for block in blocks:
        keys = tasks.fetch(series).keys(tasks.fetch(block))
        found = rank_search.count_values(keys, part, num_parts)
        for name, counts in found.items():
            total.setdefault(name, Counter()).update(counts)
    return {name: rank_search.most_frequent(counts) for name, counts in total.items()}


def find_later_copies(blocks: Sequence[BlockRef], part: int, num_parts: int) -> list[int]:
    """Finds repeated rows among those of one part of all digests.

    Args:
        blocks: References to all blocks, because equal rows may be in any two of them.
        part: Handles the digests that are `part` modulo `num_parts`.
        num_parts: Number of tasks, which bounds the digests that one holds at once.

    Returns:
        Row ids of later copies, sorted.
    """
    ids, digests = [], []
    for block in blocks:
        table = tasks.fetch(block)
        for row_id, digest in zip(
            values.row_ids(table).tolist(), table.column(values.DIGEST).to_pylist(), strict=True
        ):
            # Equal rows have equal digests, so all copies of a row meet in one part.
            if int.from_bytes(digest[:8], "little") % num_parts == part:
                ids.append(row_id)
                digests.append(digest)
    return list(clean.find_later_copies(np.array(ids, dtype=np.int64), digests).tolist())


def write_shard(
    shard: PlannedShard, blocks: Sequence[BlockRef], folder: Storage, shared: Any
) -> dict[str, Any]:
    """Writes one shard straight into storage.

    Args:
        shard: Planned shard, with the pieces of blocks that it consists of.
        blocks: References to the blocks of its pieces, in the same order.
        folder: Folder of the new data set, which this task writes one file to.
        shared: Reference to the `Cleaner`, the `Features`, the columns that are stored as files,
            and those of `fit_out_of_fold`, which all tasks share.

    Returns:
        The entry of the file in the manifest.

    Raises:
        DataError: A row does not fit the features, or the storage cannot be written.
    """
    cleaner, features, file_columns, without = tasks.fetch(shared)
    tables = map(tasks.fetch, blocks)
    parts: Iterable[pa.Table]
    if file_columns:
        # Files are small and their pixels are not: only those of one block are in memory.
        parts = shard_writer.take_parts(shard, tables, cleaner)
    else:
        parts = [shard_writer.take_rows(shard, list(tables), cleaner)]

    def apply(rows: pa.Table) -> ShardRows:
        fitted = features
        if shard.split == clean.TRAIN:
            fitted = features.out_of_fold(without, values.row_ids(rows))
        return shard_writer.apply_features(rows, fitted, cleaner, file_columns)

    rows = ShardRows.join(list(map(apply, parts)))
    return shard_writer.write_shard(rows, shard.name, folder, features, file_columns)


def take_golden_rows(
    shard: PlannedShard, blocks: Sequence[BlockRef], cleaner: Cleaner
) -> list[dict[str, Any]]:
    """Golden rows from the start of a shard.

    Args:
        shard: Planned shard of held-out rows, from which the first ones are taken.
        blocks: References to the blocks of its pieces, in the same order.
        cleaner: Assigns rows to splits, as it did when the shard was planned.
    """
    first = first_rows(shard, shard_writer.NUM_GOLDEN_ROWS)
    tables = [tasks.fetch(block) for block in blocks[: len(first.pieces)]]
    return shard_writer.golden_rows(shard_writer.take_rows(first, tables, cleaner), cleaner)
