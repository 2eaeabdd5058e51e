"""Exact statistics of a block's rows, from which features are fitted.

Runs in tasks of Ray Data; the statistics are merged in the driver. All of them are whole numbers,
extremes and first places, so merging rounds nothing and the features are the same however the rows
were cut into blocks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from raydc.data import values
from raydc.data.clean import DROPPED, TRAIN, Cleaner, SplitCodes
from raydc.data.moments import SHIFT, exact_moments, square_root
from raydc.data.shards import SPLITS
from raydc.order import Ids


@dataclass(frozen=True)
class NumberSums:
    """Statistics of a numeric column over its rows that have a value.

    Attributes:
        num_values: Number of values.
        total: Their sum times 2**`moments.SHIFT`.
        total_of_squares: Sum of their squares times 2**(2 * `moments.SHIFT`).
        low: Least value; infinity if there is none.
        high: Greatest value; minus infinity if there is none.
    """

    num_values: int
    total: int
    total_of_squares: int
    low: float
    high: float

    def plus(self, other: NumberSums) -> NumberSums:
        """Adds the statistics of other rows."""
        return NumberSums(
            self.num_values + other.num_values,
            self.total + other.total,
            self.total_of_squares + other.total_of_squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def mean_and_deviation(self) -> tuple[float, float]:
        """Computes mean and standard deviation; a constant column has the deviation 1."""
        mean = Fraction(self.total, self.num_values << SHIFT)
        variance = Fraction(self.total_of_squares, self.num_values << 2 * SHIFT) - mean * mean
        # Fractions are exact, so the deviation of a constant column is 0 and not nearly 0.
        return float(mean), square_root(variance) or 1.0


@dataclass(frozen=True)
class CategoryCounts:
    """Statistics of a categorical column.

    Attributes:
        counts: Rows of each category, by its text.
        num_missing: Rows without a value.
    """

    counts: dict[str, int]
    num_missing: int

    def plus(self, other: CategoryCounts) -> CategoryCounts:
        """Adds the statistics of other rows."""
        counts = Counter(self.counts) + Counter(other.counts)
        return CategoryCounts(dict(counts), self.num_missing + other.num_missing)


@dataclass(frozen=True)
class PixelHistogram:
    """Statistics of an image column.

    Attributes:
        height: Greatest height.
        width: Greatest width.
        channels: 3 if there is an image in colour, else 1.
        counts: Pixels of each value, [3][256]. A grey image counts in all three channels.
    """

    height: int
    width: int
    channels: int
    counts: tuple[tuple[int, ...], ...]

    def plus(self, other: PixelHistogram) -> PixelHistogram:
        """Adds the statistics of other rows."""
        return PixelHistogram(
            max(self.height, other.height),
            max(self.width, other.width),
            max(self.channels, other.channels),
            tuple(_add_all(a, b) for a, b in zip(self.counts, other.counts, strict=True)),
        )


ColumnStatistics = NumberSums | CategoryCounts | PixelHistogram


@dataclass(frozen=True)
class LabelCount:
    """Rows of one label.

    Attributes:
        count: Number of rows.
        first_row: Lowest row id among them.
    """

    count: int
    first_row: int


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of some rows.

    Attributes:
        num_rows: Rows of each split, in the order of `shards.SPLITS`.
        num_dropped: Rows in no split.
        labels: Labels of a classification, by split.
        inputs: Statistics of each input column over the training rows, and of the target of a
            regression.
    """

    num_rows: tuple[int, ...] = (0,) * len(SPLITS)
    num_dropped: int = 0
    labels: dict[str, dict[str, LabelCount]] = field(default_factory=dict)
    inputs: dict[str, ColumnStatistics] = field(default_factory=dict)

    def plus(self, later: RowStatistics) -> RowStatistics:
        """Adds the statistics of later rows."""
        return RowStatistics(
            _add_all(self.num_rows, later.num_rows),
            self.num_dropped + later.num_dropped,
            {
                split: _add_labels(self.labels.get(split), later.labels.get(split))
                for split in {**self.labels, **later.labels}
            },
            {
                name: _add_columns(self.inputs.get(name), later.inputs.get(name))
                for name in {**self.inputs, **later.inputs}
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Converts it to plain JSON values, which a task returns."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RowStatistics:
        """The inverse of `to_json`."""
        labels = {
            split: {label: LabelCount(**count) for label, count in counts.items()}
            for split, counts in value["labels"].items()
        }
        inputs = {name: _column_from_json(column) for name, column in value["inputs"].items()}
        return cls(tuple(value["num_rows"]), value["num_dropped"], labels, inputs)


def _column_from_json(value: dict[str, Any]) -> ColumnStatistics:
    # Each class has a field that no other one has.
    if "total" in value:
        return NumberSums(**value)
    if "num_missing" in value:
        return CategoryCounts(**value)
    return PixelHistogram(**{**value, "counts": tuple(map(tuple, value["counts"]))})


def measure_block(table: pa.Table, cleaner: Cleaner) -> RowStatistics:
    """Measures the rows of one block.

    Args:
        table: Raw rows of the block, with their ids.
        cleaner: Assigns them to splits, and knows the kinds of the columns.
    """
    splits, ids = cleaner.assign_splits(table), values.row_ids(table)
    # Statistics of held-out rows must not enter the features.
    training = table.filter(pa.array(splits == TRAIN))
    kinds, labels = dict(cleaner.kinds), {}
    if cleaner.data.task == "regression":
        kinds[cleaner.data.target] = "numeric"
    else:
        target = values.to_texts(values.column_of(table, cleaner.data.target))
        labels = _count_labels(target, splits, ids)
    return RowStatistics(
        tuple(int((splits == code).sum()) for code in range(len(SPLITS))),
        int((splits == DROPPED).sum()),
        labels,
        {name: _MEASURES[kind](values.column_of(training, name)) for name, kind in kinds.items()},
    )


def _count_labels(
    labels: list[str | None], splits: SplitCodes, ids: Ids
) -> dict[str, dict[str, LabelCount]]:
    result = {}
    for code, name in enumerate(SPLITS):
        counts: dict[str, list[int]] = {}
        for index in np.flatnonzero(splits == code).tolist():
            counts.setdefault(str(labels[index]), [0, int(ids[index])])[0] += 1
        result[name] = {label: LabelCount(*found) for label, found in counts.items()}
    return result


def _measure_numbers(column: pa.Array) -> NumberSums:
    parsed = values.parse_numbers(column)
    numbers = parsed.values[~parsed.missing]
    total, total_of_squares = exact_moments(numbers)
    # Infinities are neutral for `min` and `max` when blocks are merged.
    low, high = (
        (float(numbers.min()), float(numbers.max())) if len(numbers) else (math.inf, -math.inf)
    )
    return NumberSums(len(numbers), total, total_of_squares, low, high)


def _measure_categories(column: pa.Array) -> CategoryCounts:
    texts = values.to_texts(column)
    counts = Counter(text for text in texts if text is not None)
    return CategoryCounts(dict(counts), texts.count(None))


def _measure_images(column: pa.Array) -> PixelHistogram:
    # Pixels have 256 values, so that their histogram is exact and small.
    histogram = np.zeros((3, 256), dtype=np.int64)
    height, width, channels = 0, 0, 1
    for pixels_HWC in values.to_images(column):
        height, width = max(height, pixels_HWC.shape[0]), max(width, pixels_HWC.shape[1])
        channels = max(channels, pixels_HWC.shape[2])
        counts = [np.bincount(channel.ravel(), minlength=256) for channel in pixels_HWC.T]
        histogram += np.array(counts)  # One row of a grey image is added to all three.
    rows = tuple(tuple(row) for row in histogram.tolist())
    return PixelHistogram(height, width, channels, rows)


_MEASURES: dict[str, Callable[[pa.Array], ColumnStatistics]] = {
    "numeric": _measure_numbers,
    "categorical": _measure_categories,
    "image": _measure_images,
}


def merge_statistics(parts: Sequence[RowStatistics]) -> RowStatistics:
    """Merges the statistics of blocks, given in the order of their rows."""
    level = list(parts) or [RowStatistics()]
    # Pair by pair: a dict of millions of labels is copied log2(n) times for n blocks, not n times.
    while len(level) > 1:
        pairs = [level[start : start + 2] for start in range(0, len(level), 2)]
        level = [pair[0].plus(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def _add_labels(
    a: dict[str, LabelCount] | None, b: dict[str, LabelCount] | None
) -> dict[str, LabelCount]:
    total = dict(a or {})
    for label, found in (b or {}).items():
        before = total.get(label, LabelCount(0, found.first_row))
        total[label] = LabelCount(before.count + found.count, before.first_row)
    return total


def _add_columns(a: ColumnStatistics | None, b: ColumnStatistics | None) -> ColumnStatistics:
    if a is None or b is None:
        return a or b  # type: ignore[return-value]  # One of the two has the column.
    # All blocks measure a column as the same kind, which is decided before.
    return a.plus(b)  # type: ignore[arg-type]


def _add_all(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
