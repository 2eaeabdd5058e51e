"""Columns of text that a spec declares to hold lists of numbers. Runs in tasks of Ray Data."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from raydc.data import list_values, row_faults
from raydc.errors import DataError, shown
from raydc.order import Ids


def read_lists(
    name: str,
    column: pa.ChunkedArray,
    ids: Ids,
    describe: Callable[[int], str],
    faults: dict[int, str] | None,
) -> pa.ChunkedArray:
    """Reads texts such as `[1, 2.5]` as lists; a column of another type stays as it is.

    Args:
        name: Name of the column, for messages.
        column: Raw cells: JSON text, or lists already.
        ids: int64 [B], row ids.
        describe: Names a row by its id, for messages.
        faults: Gets the fault of each cell that is not a list, by its position; None means that
            the first one is an error.

    Raises:
        DataError: A cell is not a list, and `faults` is None.
    """
    if not pa.types.is_string(column.type):
        return column
    lists, wrong = list_values.of_texts(column)
    for row in sorted(wrong):
        text = column[row].as_py()
        if faults is None:
            raise DataError(f"{describe(int(ids[row]))}: {name}: {shown(text)}: {wrong[row]}")
        faults.setdefault(row, row_faults.cell(name, text, wrong[row]))
    return pa.chunked_array([lists])
