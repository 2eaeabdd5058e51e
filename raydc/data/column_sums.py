"""Exact sums of one column, by its kind. Merging them rounds nothing. Pure.

Made in tasks of Ray Data by `raydc.data.column_statistics`, merged in the driver.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.data.moments import SHIFT, exact_moments, square_root
from raydc.data.target_sums import NO_TARGETS, TargetSums
from raydc.data.word_counts import WordCounts


@dataclass(frozen=True)
class NumberSums:
    """Statistics of a numeric column over its rows that have a value.

    Attributes:
        num_values: Number of rows with a value.
        total: Their sum times 2**`moments.SHIFT`.
        total_of_squares: Sum of their squares times 2**(2 * `moments.SHIFT`).
        low: Lowest value; infinity if there is none.
        high: Highest value; minus infinity if there is none.
        logs: The two sums of `number_column.signed_log` of the values; None if nothing needs them.
    """

    num_values: int
    total: int
    total_of_squares: int
    low: float
    high: float
    logs: tuple[int, int] | None = None

    def plus(self, other: NumberSums) -> NumberSums:
        """Adds the statistics of other rows."""
        return NumberSums(
            self.num_values + other.num_values,
            self.total + other.total,
            self.total_of_squares + other.total_of_squares,
            min(self.low, other.low),
            max(self.high, other.high),
            None
            if self.logs is None or other.logs is None
            else (self.logs[0] + other.logs[0], self.logs[1] + other.logs[1]),
        )

    def mean_and_deviation(self) -> tuple[float, float]:
        """Computes mean and standard deviation; a constant column has the deviation 1."""
        return _mean_and_deviation(self.num_values, self.total, self.total_of_squares)

    def log_mean_and_deviation(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithms, like `mean_and_deviation`."""
        assert self.logs is not None
        return _mean_and_deviation(self.num_values, *self.logs)


def sums_of(numbers: npt.NDArray[np.float64]) -> NumberSums:
    """Sums of finite numbers, [B]."""
    total, total_of_squares = exact_moments(numbers)
    # Infinities are neutral for `min` and `max` when blocks are merged.
    low, high = (
        (float(numbers.min()), float(numbers.max())) if len(numbers) else (math.inf, -math.inf)
    )
    return NumberSums(len(numbers), total, total_of_squares, low, high)


def _mean_and_deviation(num_values: int, total: int, squares: int) -> tuple[float, float]:
    mean = Fraction(total, num_values << SHIFT)
    variance = Fraction(squares, num_values << 2 * SHIFT) - mean * mean
    # Fractions are exact, so the deviation of a constant column is 0 and not nearly 0.
    return float(mean), square_root(variance) or 1.0


@dataclass(frozen=True)
class CategoryCounts:
    """Statistics of a categorical column.

    Attributes:
        counts: Rows of each category, by its text.
        num_missing: Rows without a value.
        targets: Sums of the targets, if the column is encoded by them.
    """

    counts: dict[str, int]
    num_missing: int
    targets: TargetSums = NO_TARGETS

    def plus(self, other: CategoryCounts) -> CategoryCounts:
        """Adds the statistics of other rows."""
        counts = Counter(self.counts) + Counter(other.counts)
        num_missing = self.num_missing + other.num_missing
        return CategoryCounts(dict(counts), num_missing, self.targets.plus(other.targets))


@dataclass(frozen=True)
class PixelHistogram:
    """Statistics of an image column.

    Attributes:
        height: Largest height of an image, in pixels.
        width: Largest width of an image, in pixels.
        channels: 3 if there is an image in colour, else 1.
        counts: Pixels of each value, [3][256]. A grey image counts in all three channels.
        num_images: Number of rows with an image.
        num_files: Number of images whose file is known.
        file_bytes: Bytes of these files.
    """

    height: int
    width: int
    channels: int
    counts: tuple[tuple[int, ...], ...]
    num_images: int = 0
    num_files: int = 0
    file_bytes: int = 0

    def plus(self, other: PixelHistogram) -> PixelHistogram:
        """Adds the statistics of other rows."""
        return PixelHistogram(
            max(self.height, other.height),
            max(self.width, other.width),
            max(self.channels, other.channels),
            tuple(add_all(a, b) for a, b in zip(self.counts, other.counts, strict=True)),
            self.num_images + other.num_images,
            self.num_files + other.num_files,
            self.file_bytes + other.file_bytes,
        )


@dataclass(frozen=True)
class ListSums:
    """Statistics of a column of lists.

    Attributes:
        sums: Of each number of an item; empty if no list has an item.
        longest: Items of the longest list, without what is cut off.
        num_lists: Rows with a list.
        num_absent: Rows without one.
        num_cut: Lists with more items than are kept.
        is_array: Whether each row is an array of one size.
        has_width: Whether an item is an array of numbers.
    """

    sums: tuple[NumberSums, ...]
    longest: int
    num_lists: int
    num_absent: int
    num_cut: int
    is_array: bool
    has_width: bool

    def plus(self, other: ListSums) -> ListSums:
        """Adds the statistics of other rows."""
        sums = self.sums or other.sums
        if self.sums and other.sums:
            sums = tuple(a.plus(b) for a, b in zip(self.sums, other.sums, strict=True))
        return ListSums(
            sums,
            max(self.longest, other.longest),
            self.num_lists + other.num_lists,
            self.num_absent + other.num_absent,
            self.num_cut + other.num_cut,
            self.is_array or other.is_array,
            self.has_width or other.has_width,
        )


ColumnStatistics = NumberSums | CategoryCounts | PixelHistogram | WordCounts | ListSums


def column_from_json(value: dict[str, Any]) -> ColumnStatistics:
    """The inverse of `dataclasses.asdict` of the statistics of a column."""
    # Each class has a field that no other one has.
    if "total" in value:
        return _sums_from_json(value)
    if "longest" in value:
        return ListSums(**{**value, "sums": tuple(map(_sums_from_json, value["sums"]))})
    if "words" in value:
        return WordCounts(**value)
    if "num_missing" in value:
        return CategoryCounts(**{**value, "targets": TargetSums.from_json(value["targets"])})
    return PixelHistogram(**{**value, "counts": tuple(map(tuple, value["counts"]))})


def _sums_from_json(value: dict[str, Any]) -> NumberSums:
    return NumberSums(**{**value, "logs": tuple(value["logs"]) if value["logs"] else None})


def add_all(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Adds two tuples element by element."""
    return tuple(x + y for x, y in zip(a, b, strict=True))
