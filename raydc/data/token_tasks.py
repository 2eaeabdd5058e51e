"""What a preparation does with documents, in tasks of Ray Data or in the driver.

Documents become blocks of token codes; shards are cut from the stream that the blocks of a split
form together. Results are plain JSON values, as `tasks.run_calls` requires.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raydc.data import clean, row_places, shard_writer, tasks, values, word_counts
from raydc.data.clean import Cleaner
from raydc.data.shard_plan import PlannedShard
from raydc.data.shard_writer import ShardRows
from raydc.data.shards import SPLITS
from raydc.features import Features, Record, TokenBlock
from raydc.storage import Storage

_SPLIT, _CODES = "split", "codes"


def count_words(block: tasks.BlockRef, cleaner: Any) -> dict[str, Any]:
    """Counts the words of the training documents of a block: arguments of `WordCounts`.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Reference to the `Cleaner`.
    """
    table, known = tasks.fetch(block), tasks.fetch(cleaner)
    training = table.filter(pa.array(known.assign_splits(table) == clean.TRAIN))
    column = values.column_of(training, known.data.target)
    return vars(word_counts.count_words(column, known.data.features.text))


def encode(block: tasks.BlockRef, shared: Any) -> Iterable[pa.Table]:
    """Yields the documents of a block as token codes; those without a token are left out.

    Args:
        block: Reference to the raw rows of one block.
        shared: Reference to the `Cleaner` and the fitted column.

    Raises:
        DataError: A document cannot be encoded.
    """
    table = tasks.fetch(block)
    cleaner: Cleaner
    column: TokenBlock
    cleaner, column = tasks.fetch(shared)
    splits_B, ids = cleaner.assign_splits(table), values.row_ids(table)
    texts = values.to_strings(values.column_of(table, cleaner.data.target))
    places, codes = [], []
    with row_places.with_ids(ids):
        for row in np.flatnonzero(splits_B != clean.DROPPED).tolist():
            found = column.encode(texts[row], f"rows[{row}].{cleaner.data.target}")
            if found:
                places.append(row)
                codes.append(np.array(found, dtype=column.dtype).tobytes())
    chosen = np.array(places, dtype=np.int64)
    yield pa.table(
        {
            values.ROW_ID: pa.array(ids[chosen]),
            _SPLIT: pa.array(splits_B[chosen]),
            _CODES: pa.array(codes, pa.large_binary()),
        }
    )


def count_tokens(block: tasks.BlockRef, dtype: str) -> dict[str, Any]:
    """Documents and tokens of a block by split, the ends of documents included.

    Args:
        block: Reference to a table of `encode`.
        dtype: Type of the codes.

    Returns:
        `first`, the lowest row id, None without rows; `documents` and `tokens`, a number for each
        split.
    """
    table = tasks.fetch(block)
    found = {"first": values.row_ids(table)[0].item() if table.num_rows else None}
    splits = table.column(_SPLIT).to_numpy()
    num_bytes = np.asarray(pc.binary_length(table.column(_CODES)))
    # An end for each document.
    lengths = num_bytes // np.dtype(dtype).itemsize + 1
    documents = [int((splits == split).sum()) for split in range(len(SPLITS))]
    tokens = [int(lengths[splits == split].sum()) for split in range(len(SPLITS))]
    return {**found, "documents": documents, "tokens": tokens}


def _stream(table: pa.Table, split: int, dtype: str, end_code: int) -> npt.NDArray[Any]:
    """Codes of the documents of a split, with the end in front of each."""
    chosen = table.filter(pa.array(table.column(_SPLIT).to_numpy() == split))
    end = np.array([end_code], dtype=dtype)
    parts = [end[:0]]
    for content in chosen.column(_CODES).to_pylist():
        parts += [end, np.frombuffer(content, dtype=dtype)]
    return np.concatenate(parts)


def write_shard(
    shard: PlannedShard,
    blocks: Sequence[tasks.BlockRef],
    first_row: int,
    is_last: bool,
    folder: Storage,
    features: Any,
) -> dict[str, Any]:
    """Cuts the rows of one shard from the stream of a split and writes them into storage.

    Args:
        shard: Planned shard, whose pieces are counted in tokens. The last piece is the token behind
            the shard, unless it is the last shard of its split.
        blocks: References to the blocks of its pieces, in the same order.
        first_row: Number of its first row among those of the data set.
        is_last: Whether it is the last shard of its split, behind which a document ends.
        folder: Folder of the new data set, which this task writes one file to.
        features: Reference to the `Features`.

    Returns:
        The entry of the file in the manifest.

    Raises:
        DataError: The storage cannot be written.
    """
    fitted: Features = tasks.fetch(features)
    ((name, column),) = fitted.columns.items()
    assert isinstance(column, TokenBlock)
    parts = []
    for block, (_, start, stop) in zip(blocks, shard.pieces, strict=True):
        stream = _stream(tasks.fetch(block), shard.split, column.dtype, column.end_code)
        parts.append(stream[start:stop])
    stream = np.concatenate(parts)
    if is_last:
        stream = np.append(stream, np.array([column.end_code], dtype=column.dtype))
    rows_BM, counts_B = column.rows(stream)
    ids_B = np.arange(first_row, first_row + len(rows_BM), dtype=np.int64)
    rows = ShardRows(Record({name: rows_BM}), counts_B, ids_B, None)
    return shard_writer.write_shard(rows, shard.name, folder, fitted)


def take_texts(
    block: tasks.BlockRef, cleaner: Cleaner, split: int, count: int, most: int
) -> list[str]:
    """Beginnings of the first documents of a split in a block.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Assigns rows to splits.
        split: Index of the split.
        count: Documents to take.
        most: Characters of each.
    """
    table = tasks.fetch(block)
    chosen = table.filter(pa.array(cleaner.assign_splits(table) == split))
    texts = values.to_strings(values.column_of(chosen, cleaner.data.target))
    # Empty ones are left out first: how many a block has must not matter.
    return [text[:most] for text in texts if text][:count]
