"""Statistics of windows of series, and the input that is fitted from them.

Measured in tasks of Ray Data, fitted in the driver. Only the last past step of each window counts,
because the steps before it are the last steps of earlier windows.

Shape suffixes: B rows, L past steps, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import column_statistics, values, window_cut
from raydc.data.clean import TRAIN, Cleaner
from raydc.data.column_statistics import RowStatistics, measure_numbers
from raydc.data.column_sums import ColumnStatistics, NumberSums
from raydc.features import SeriesWindow
from raydc.spec.data import Data
from raydc.spec.windows import WINDOW


def past_of(rows: pa.Table, data: Data) -> npt.NDArray[np.float64]:
    """The past steps of windows, [B, L, C].

    Args:
        rows: Windows, one in each row.
        data: Section `data` of the spec, with windows.
    """
    assert data.windows is not None
    shape = (data.windows.length, len(data.windows.inputs(data.target)))
    return window_cut.numbers_of(rows, values.WINDOW, shape)


def measure_block(table: pa.Table, cleaner: Cleaner) -> RowStatistics:
    """Measures the rows of one block, which may be windows.

    Args:
        table: Raw rows of the block, with their ids.
        cleaner: Assigns them to splits, and knows the kinds of the columns.
    """
    found = column_statistics.measure_block(table, cleaner)
    if cleaner.data.windows is None:
        return found
    training = table.filter(pa.array(cleaner.assign_splits(table) == TRAIN))
    return replace(found, inputs={**found.inputs, **dict(_measure(training, cleaner.data))})


def _measure(training: pa.Table, data: Data) -> Iterator[tuple[str, ColumnStatistics]]:
    """Yields the statistics of each column of the windows, and of the target, by name."""
    assert data.windows is not None
    # A block without windows lacks these columns.
    if training.num_rows:
        last_BC = past_of(training, data)[:, -1]
        next_B = window_cut.numbers_of(training, values.TARGETS, (-1,)).reshape(-1)
    else:
        last_BC = np.empty((0, len(data.windows.inputs(data.target))))
        next_B = np.empty(0)
    for name, column in zip(data.windows.inputs(data.target), last_BC.T, strict=True):
        yield _name(name), measure_numbers(pa.array(np.ascontiguousarray(column)))
    yield data.target, measure_numbers(pa.array(next_B))


def _name(column: str) -> str:
    return f"{values.WINDOW}.{column}"


def fit(found: Mapping[str, ColumnStatistics], data: Data) -> dict[str, SeriesWindow]:
    """Fits the input of the past steps, by its name; nothing if rows are not windows.

    The column of the target is scaled like the target, so that a forecast can be relative to its
    past.

    Args:
        found: Statistics of all blocks by name, as `measure_block` gives them.
        data: Section `data` of the spec.
    """
    windows = data.windows
    if windows is None:
        return {}
    columns = windows.inputs(data.target)
    scaling = []
    for name in columns:
        sums = found[data.target if name == data.target else _name(name)]
        assert isinstance(sums, NumberSums)
        scaling.append(sums.mean_and_deviation())
    window = SeriesWindow(
        windows.length,
        columns,
        tuple(mean for mean, _ in scaling),
        tuple(deviation for _, deviation in scaling),
        columns.index(data.target) if data.target in columns else None,
        windows.missing == "previous",
    )
    return {WINDOW: window}
