"""Columns that are declared dates: their cells as seconds. Pure; used in tasks of Ray Data.

Whatever type the file has, such a column holds numbers from here on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raydc.data import row_faults, times, values
from raydc.errors import DataError, shown
from raydc.features.date_column import NO_DATE, is_in_years
from raydc.order import Ids


def to_seconds(
    name: str,
    column: pa.ChunkedArray,
    ids: Ids,
    describe: Callable[[int], str],
    faults: dict[int, str] | None,
) -> pa.ChunkedArray:
    """Reads the cells of a column as dates.

    Args:
        name: Name of the column, for messages.
        column: Cells of the column, after `values.simplify`.
        ids: Ids of the rows, for messages.
        describe: Returns file and number of the row with an id.
        faults: Gets the fault of each row that has one, by its position in the block; None raises
            the first one.

    Returns:
        float64, null where there is no date.

    Raises:
        DataError: A cell is not a date.
    """
    if values.kind_of(column.type) not in ("number", "text"):
        raise DataError(
            f"column {name!r} is declared date, but holds {column.type}",
            "Leave it out of data.features.columns, or declare what it holds.",
        )
    whole = values.column_of(pa.table({name: column}), name)
    parsed = times.parse_times(whole)
    wrong = ~parsed.missing & (parsed.wrong | ~is_in_years(parsed.values))
    for row in np.flatnonzero(wrong).tolist():
        value = whole[row].as_py()
        if faults is None:
            raise DataError(
                f"{describe(int(ids[row]))}: {name}: {shown(value)} {NO_DATE}",
                "Strings that mean 'missing' belong in data.clean.missing_values; "
                "data.clean.on_error: drop leaves such rows out.",
            )
        faults.setdefault(row, row_faults.cell(name, value, NO_DATE))
    seconds = pa.array(parsed.values, mask=parsed.missing | wrong)
    return pa.chunked_array([seconds])
