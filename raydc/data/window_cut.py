"""Windows of sorted series, as rows of a table. Pure; used in tasks of Ray Data.

A row is one window: its past steps, the values after them, and the other inputs at the last past
step. Its id is that of the row of its first target.

Shape suffixes: B windows, N rows of all series, C columns, L past steps, H next values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.data.series_rows import Mask, SeriesRows
from raydc.spec.windows import Windows

_TABLE_BYTES = 16 * 1024 * 1024
# Bits for the position of a window in its part.
_ORDER_BITS = 40


@dataclass(frozen=True)
class WindowPlaces:
    """Where windows are in sorted rows.

    Attributes:
        firsts: Position of the first target of each window, in the order of its row id.
        num_missing: Windows that were left out because a number is missing.
        num_short: Series that have fewer rows than a window, gaps aside.
        num_series: Number of series that the rows belong to.
    """

    firsts: npt.NDArray[np.int64]
    num_missing: int
    num_short: int
    num_series: int


def find(rows: SeriesRows, windows: Windows) -> tuple[SeriesRows, WindowPlaces]:
    """Finds the windows of some series.

    Args:
        rows: Rows sorted by series and time.
        windows: Section `data.windows` of the spec.

    Returns:
        The rows, in which missing numbers of the past are filled in if the section says so; and
        the places.
    """
    length, horizon = windows.length, windows.horizon
    num_rows = len(rows)
    starts = np.maximum.accumulate(np.where(rows.breaks, np.arange(num_rows), 0))
    if windows.missing == "previous":
        rows = _filled(rows, starts)
    sizes = np.bincount(rows.series) if num_rows else np.empty(0, dtype=np.int64)
    num_short = int(((sizes > 0) & (sizes < length + horizon)).sum())
    places = np.arange(length, num_rows - horizon + 1)
    start = starts[places - length]
    is_whole = start == starts[places + horizon - 1]
    is_whole &= (places - length - start) % windows.stride == 0
    places = places[is_whole]
    lacks: Mask = np.asarray(np.isnan(rows.inputs_NC).any(axis=1))
    complete = _count(lacks, places - length, places) == 0
    complete &= _count(np.isnan(rows.target_N), places, places + horizon) == 0
    firsts = places[complete]
    firsts = firsts[np.argsort(rows.ids[firsts], kind="stable")]
    num_missing = len(places) - len(firsts)
    return rows, WindowPlaces(firsts, num_missing, num_short, int((sizes > 0).sum()))


def _count(mask: Mask, starts: npt.NDArray[Any], stops: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Number of marked rows from each start to its stop."""
    before = np.concatenate([[0], np.cumsum(mask)])
    counts: npt.NDArray[Any] = before[stops] - before[starts]
    return counts


def _filled(rows: SeriesRows, starts: npt.NDArray[np.int64]) -> SeriesRows:
    """Replaces missing numbers of the past by the number before, unless there is a gap between."""
    filled = rows.inputs_NC.copy()
    for column in filled.T:
        last = np.maximum.accumulate(np.where(np.isnan(column), -1, np.arange(len(column))))
        known = last >= starts
        column[known] = column[last[known]]
    return SeriesRows(
        rows.ids, rows.times, rows.series, filled, rows.target_N, rows.others, rows.breaks
    )


def tables(
    rows: SeriesRows, found: WindowPlaces, windows: Windows, target: str, part: int
) -> Iterator[pa.Table]:
    """Yields the windows as tables of bounded size.

    Args:
        rows: Sorted rows, as `find` returned them.
        found: Places of the windows, from `find`.
        windows: Section `data.windows` of the spec.
        target: Name of the target column.
        part: Number of this part of the series, which orders the tables of all parts.
    """
    width = windows.length * rows.inputs_NC.shape[1] + windows.horizon
    per_table = max(1, _TABLE_BYTES // (8 * width))
    for start in range(0, len(found.firsts), per_table):
        firsts = found.firsts[start : start + per_table]
        order = (part << _ORDER_BITS) + start + np.arange(len(firsts))
        past_BL = firsts[:, None] + np.arange(-windows.length, 0)
        next_BH = firsts[:, None] + np.arange(windows.horizon)
        target_BH = rows.target_N[next_BH]
        others = rows.others.take(pa.array(firsts - 1))
        columns = {name: others.column(name) for name in others.column_names}
        yield pa.table(
            {
                values.ROW_ID: rows.ids[firsts],
                **columns,
                target: target_BH[:, 0],
                values.WINDOW: fixed_lists(rows.inputs_NC[past_BL]),
                values.TARGETS: fixed_lists(target_BH),
                values.FIRST_TIME: rows.times[next_BH[:, 0]],
                values.LAST_TIME: rows.times[next_BH[:, -1]],
                values.ORDER: order,
            }
        )


def fixed_lists(numbers: npt.NDArray[np.float64]) -> pa.Array:
    """A column with the numbers of each row as a list of fixed length."""
    flat = np.ascontiguousarray(numbers).reshape(len(numbers), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def numbers_of(table: pa.Table, name: str, shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """Numbers of a column that `fixed_lists` made.

    Args:
        table: Windows, one in each row.
        name: Column to read, such as `values.WINDOW`.
        shape: Shape of the numbers in one row.
    """
    flat = values.column_of(table, name).flatten()
    return np.asarray(flat).reshape(table.num_rows, *shape)
