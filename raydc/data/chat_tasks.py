"""What a preparation does with conversations, in tasks of Ray Data or in the driver.

Conversations become blocks of codes with marks; rows are filled with whole conversations. Results
are plain JSON values, as `tasks.run_calls` requires.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import clean, row_places, shard_writer, tasks, values
from raydc.data.clean import Cleaner
from raydc.data.shard_plan import PlannedShard
from raydc.data.shard_writer import ShardRows
from raydc.data.shards import SPLITS
from raydc.errors import DataError, shown
from raydc.features import Conversations, Features, Record
from raydc.spec.data import Data
from raydc.storage import Storage

_SPLIT, _CODES, _FATE = "split", "codes", "fate"
# What becomes of a conversation, beside being taken as it is.
KEPT, NO_ANSWER, LEFT_OUT, CUT = range(4)
FATES = (NO_ANSWER, LEFT_OUT, CUT)


def encode(block: tasks.BlockRef, shared: Any) -> Iterable[pa.Table]:
    """Yields the conversations of a block as codes with marks; none for those that are left out.

    Args:
        block: Reference to the raw rows of one block.
        shared: Reference to the `Cleaner` and the fitted column.

    Raises:
        DataError: A row is no conversation, or what was answered in it cannot be told.
    """
    table = tasks.fetch(block)
    cleaner: Cleaner
    column: Conversations
    cleaner, column = tasks.fetch(shared)
    splits_B, ids = cleaner.assign_splits(table), values.row_ids(table)
    cells = _Cells(table, cleaner.data)
    places, codes, fates = [], [], []
    with row_places.with_ids(ids):
        for row in np.flatnonzero(splits_B != clean.DROPPED).tolist():
            # Cells are made one by one: a prompt that is missing has a place of its own.
            cell = cells.cell(row)
            found, fate = _shorten(
                column.encode(cell, f"rows[{row}].{cleaner.data.target}"), column, cleaner.data
            )
            places.append(row)
            codes.append(None if found is None else found.tobytes())
            fates.append(fate)
    chosen = np.array(places, dtype=np.int64)
    yield pa.table(
        {
            values.ROW_ID: pa.array(ids[chosen]),
            _SPLIT: pa.array(splits_B[chosen]),
            _CODES: pa.array(codes, pa.large_binary()),
            _FATE: pa.array(fates, pa.int8()),
        }
    )


def _shorten(
    codes: npt.NDArray[Any], column: Conversations, data: Data
) -> tuple[npt.NDArray[Any] | None, int]:
    """What is taken of a conversation, None for nothing, and what became of it."""
    assert data.chat is not None
    most, fate = column.length + 1, KEPT
    if column.count_learnt(codes) and len(codes) > most:
        if data.chat.long == "drop":
            return None, LEFT_OUT
        codes, fate = codes[:most], CUT
    if not column.count_learnt(codes):
        return None, NO_ANSWER
    return codes, fate


class _Cells:
    """Conversations of a table, by row.

    Args:
        table: Raw rows of a block.
        data: Section `data`, which says whether prompts have a column of their own.
    """

    def __init__(self, table: pa.Table, data: Data) -> None:
        assert data.chat is not None
        answers, prompt = values.column_of(table, data.target), data.chat.prompt
        self._given = answers.to_pylist()
        self._prompts = None
        self._name = prompt
        if prompt is not None:
            self._prompts = values.to_strings(values.column_of(table, prompt))
            self._given = values.to_strings(answers)

    def cell(self, row: int) -> Any:
        """Messages of a row; see `Conversations.encode`."""
        if self._prompts is None:
            return self._given[row]
        prompt, answer = self._prompts[row], self._given[row]
        if prompt is None or answer is None:
            raise DataError(f"rows[{row}].{self._name}: {shown(prompt)} is not text")
        return _pair(prompt, answer)


def _pair(prompt: str, answer: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
    ]


def measure(block: tasks.BlockRef, column: Any) -> dict[str, Any]:
    """Lengths of the conversations of a block, and what became of them.

    Args:
        block: Reference to a table of `encode`.
        column: Reference to the fitted column.

    Returns:
        `first`, the lowest row id, None without rows; `lengths`, tokens of each conversation by
        split; `learnt`, tokens that are learnt by split; `fates`, for each of `FATES` the number of
        conversations and the lowest row id, None without one.
    """
    table, known = tasks.fetch(block), tasks.fetch(column)
    ids, fates = values.row_ids(table), table.column(_FATE).to_numpy()
    found: dict[str, Any] = {"first": ids.min().item() if table.num_rows else None, "fates": []}
    for fate in FATES:
        chosen = ids[fates == fate]
        found["fates"].append([len(chosen), chosen.min().item() if len(chosen) else None])
    taken = [_of_split(table, split, known.dtype) for split in range(len(SPLITS))]
    found["lengths"] = [[len(one) for one in conversations] for conversations in taken]
    found["learnt"] = [sum(map(known.count_learnt, conversations)) for conversations in taken]
    return found


def _of_split(table: pa.Table, split: int, dtype: str) -> list[npt.NDArray[Any]]:
    """Codes of the conversations of a split that are taken."""
    chosen = table.filter(pa.array(table.column(_SPLIT).to_numpy() == split))
    contents = chosen.column(_CODES).to_pylist()
    return [np.frombuffer(one, dtype=dtype) for one in contents if one is not None]


def write_shard(
    shard: PlannedShard,
    blocks: Sequence[tasks.BlockRef],
    sizes: Sequence[int],
    first_row: int,
    folder: Storage,
    features: Any,
) -> dict[str, Any]:
    """Fills the rows of one shard with conversations and writes them into storage.

    Args:
        shard: Planned shard, whose pieces are counted in conversations that are taken.
        blocks: References to the blocks of its pieces, in the same order.
        sizes: Number of conversations in each of its rows.
        first_row: Number of its first row among those of the data set.
        folder: Folder of the new data set, which this task writes one file to.
        features: Reference to the `Features`.

    Returns:
        The entry of the file in the manifest.

    Raises:
        DataError: The storage cannot be written.
    """
    fitted: Features = tasks.fetch(features)
    ((name, column),) = fitted.columns.items()
    assert isinstance(column, Conversations)
    conversations: list[npt.NDArray[Any]] = []
    for block, (_, start, stop) in zip(blocks, shard.pieces, strict=True):
        conversations += _of_split(tasks.fetch(block), shard.split, column.dtype)[start:stop]
    rows, counts, place = [], [], 0
    for size in sizes:
        row_M, count = column.fill(conversations[place : place + size])
        rows.append(row_M)
        counts.append(count)
        place += size
    ids_B = np.arange(first_row, first_row + len(rows), dtype=np.int64)
    made = ShardRows(Record({name: np.stack(rows)}), np.array(counts, np.int64), ids_B, None)
    return shard_writer.write_shard(made, shard.name, folder, fitted)


def take_cells(block: tasks.BlockRef, shared: Any, split: int, count: int) -> list[str]:
    """JSON texts of the first conversations of a split in a block that are taken.

    Args:
        block: Reference to the raw rows of one block.
        shared: Reference to the `Cleaner` and the fitted column.
        split: Index of the split.
        count: Conversations to take.
    """
    table = tasks.fetch(block)
    cleaner, column = tasks.fetch(shared)
    cells = _Cells(table, cleaner.data)
    found: list[str] = []
    for row in np.flatnonzero(cleaner.assign_splits(table) == split).tolist():
        if len(found) == count:
            break
        cell = cells.cell(row)
        if _shorten(column.encode(cell, "golden row"), column, cleaner.data)[0] is not None:
            found.append(cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False))
    return found
