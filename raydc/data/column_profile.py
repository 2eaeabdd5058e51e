"""What the columns of some rows look like, by split: for `raydc inspect`.

Runs in tasks of Ray Data; profiles are merged in the driver. They are counts, exact sums and
extremes, so that they are the same however the rows were cut into blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.data.clean import DROPPED, Cleaner
from raydc.data.column_statistics import measure_images, measure_numbers
from raydc.data.column_sums import NumberSums, PixelHistogram
from raydc.data.shards import SPLITS

# Maximum distinct numbers to count; a column with more is said to have "more than" this.
MAX_DISTINCT = 1000
# Sign, exponent and 12 bits of the mantissa are kept: a cell is 1/4096 of its numbers wide.
_CELL_SHIFT = 40
_MAGNITUDE = np.int64(0x7FFF_FFFF_FFFF_FFFF)
_Numbers = npt.NDArray[np.float64]
_Key = TypeVar("_Key", int, str)


@dataclass(frozen=True)
class NumberProfile:
    """The numbers of a column in some rows of one split.

    Attributes:
        sums: Exact sums and extremes.
        cells: Numbers in each cell of `cells_of`.
        distinct: Different numbers; None if there are more than `MAX_DISTINCT`.
    """

    sums: NumberSums
    cells: dict[int, int]
    distinct: frozenset[float] | None

    def plus(self, other: NumberProfile) -> NumberProfile:
        """Adds the numbers of other rows."""
        return NumberProfile(
            self.sums.plus(other.sums),
            _add_counts(self.cells, other.cells),
            _few(self.distinct, other.distinct),
        )

    def quantiles(self, fractions: Sequence[float]) -> list[float]:
        """The numbers below which these fractions lie, each to 1/4096 of itself."""
        cells = np.array(sorted(self.cells), dtype=np.int64)
        ends = np.cumsum([self.cells[int(cell)] for cell in cells])
        ranks = [fraction * (ends[-1] - 1) for fraction in fractions]
        found = numbers_of(cells[np.searchsorted(ends, ranks, side="right")])
        # The ends are known exactly, and a cell may begin before its lowest number.
        return [float(number) for number in np.clip(found, self.sums.low, self.sums.high)]


@dataclass(frozen=True)
class ColumnProfile:
    """A column in some rows of one split.

    Attributes:
        num_missing: Cells without a value.
        numbers: Of a numeric column; None without numbers.
        categories: Rows by value, of a categorical column.
        pixels: Of an image column.
    """

    num_missing: int = 0
    numbers: NumberProfile | None = None
    categories: dict[str, int] = field(default_factory=dict)
    pixels: PixelHistogram | None = None

    def plus(self, other: ColumnProfile) -> ColumnProfile:
        """Adds other rows."""
        return ColumnProfile(
            self.num_missing + other.num_missing,
            self.numbers.plus(other.numbers)
            if self.numbers and other.numbers
            else self.numbers or other.numbers,
            _add_counts(self.categories, other.categories),
            self.pixels.plus(other.pixels)
            if self.pixels and other.pixels
            else self.pixels or other.pixels,
        )


@dataclass(frozen=True)
class RowProfile:
    """The columns of some rows.

    Attributes:
        num_rows: Rows of each split, in the order of `SPLITS`.
        num_dropped: Rows in no split.
        columns: Profiles of each column, one for each split.
    """

    num_rows: tuple[int, ...] = (0,) * len(SPLITS)
    num_dropped: int = 0
    columns: dict[str, tuple[ColumnProfile, ...]] = field(default_factory=dict)

    def plus(self, other: RowProfile) -> RowProfile:
        """Adds other rows of the same columns."""
        return RowProfile(
            tuple(a + b for a, b in zip(self.num_rows, other.num_rows, strict=True)),
            self.num_dropped + other.num_dropped,
            {
                name: tuple(a.plus(b) for a, b in zip(parts, other.columns[name], strict=True))
                for name, parts in self.columns.items()
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Converts it to plain JSON values, which a task returns."""
        columns = {name: [_to_json(part) for part in parts] for name, parts in self.columns.items()}
        return {"num_rows": self.num_rows, "num_dropped": self.num_dropped, "columns": columns}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RowProfile:
        """The inverse of `to_json`."""
        columns = {name: tuple(map(_from_json, parts)) for name, parts in value["columns"].items()}
        return cls(tuple(value["num_rows"]), value["num_dropped"], columns)


def _to_json(part: ColumnProfile) -> dict[str, Any]:
    numbers = part.numbers and {
        "sums": asdict(part.numbers.sums),
        # Keys of JSON objects are texts.
        "cells": [list(part.numbers.cells), list(part.numbers.cells.values())],
        "distinct": None if part.numbers.distinct is None else sorted(part.numbers.distinct),
    }
    pixels = part.pixels and asdict(part.pixels)
    return {
        "num_missing": part.num_missing,
        "numbers": numbers,
        "categories": part.categories,
        "pixels": pixels,
    }


def _from_json(value: dict[str, Any]) -> ColumnProfile:
    numbers, pixels = value["numbers"], value["pixels"]
    if numbers is not None:
        distinct = numbers["distinct"]
        numbers = NumberProfile(
            NumberSums(**numbers["sums"]),
            dict(zip(*numbers["cells"], strict=True)),
            None if distinct is None else frozenset(distinct),
        )
    if pixels is not None:
        pixels = PixelHistogram(**{**pixels, "counts": tuple(map(tuple, pixels["counts"]))})
    return ColumnProfile(value["num_missing"], numbers, value["categories"], pixels)


def profile_block(table: pa.Table, cleaner: Cleaner, kinds: Mapping[str, str]) -> RowProfile:
    """Profiles the rows of one block.

    Args:
        table: Raw rows of the block, with their ids.
        cleaner: Assigns them to splits.
        kinds: Kind of each column to profile; of an unknown kind missing cells are counted only.
    """
    codes = cleaner.assign_splits(table)
    parts = [table.filter(pa.array(codes == code)) for code in range(len(SPLITS))]
    return RowProfile(
        tuple(part.num_rows for part in parts),
        int((codes == DROPPED).sum()),
        {
            name: tuple(_profile(values.column_of(part, name), kind) for part in parts)
            for name, kind in kinds.items()
        },
    )


def _profile(column: pa.Array, kind: str) -> ColumnProfile:
    if kind == "numeric":
        parsed = values.parse_numbers(column)
        numbers = parsed.values[np.isfinite(parsed.values)]
        found = np.unique(numbers)
        cells, counts = np.unique(cells_of(numbers), return_counts=True)
        profile = NumberProfile(
            measure_numbers(column),
            dict(zip(cells.tolist(), counts.tolist(), strict=True)),
            frozenset(found.tolist()) if len(found) <= MAX_DISTINCT else None,
        )
        return ColumnProfile(int(parsed.missing.sum()), profile if len(numbers) else None)
    if kind == "categorical":
        texts = values.to_texts(column)
        counts_by_text = Counter(text for text in texts if text is not None)
        return ColumnProfile(texts.count(None), categories=dict(counts_by_text))
    num_missing = int(values.missing_mask(column).sum())
    if kind == "image" and num_missing < len(column):
        return ColumnProfile(num_missing, pixels=measure_images(column.drop_null()))
    return ColumnProfile(num_missing)


def merge_profiles(parts: Sequence[RowProfile]) -> RowProfile:
    """Merges the profiles of blocks."""
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total


def _add_counts(a: dict[_Key, int], b: dict[_Key, int]) -> dict[_Key, int]:
    # Much faster than adding two `Counter`s, and a cell may have thousands of entries.
    total = dict(a)
    for key, count in b.items():
        total[key] = total.get(key, 0) + count
    return total


def _few(a: frozenset[float] | None, b: frozenset[float] | None) -> frozenset[float] | None:
    if a is None or b is None:
        return None
    return a | b if len(a | b) <= MAX_DISTINCT else None


def cells_of(numbers: _Numbers) -> npt.NDArray[np.int64]:
    """Numbers of the cells of finite doubles; a greater number has no lower cell."""
    # -0.0 and 0.0 are one number.
    bits = (np.asarray(numbers, dtype=np.float64) + 0.0).view(np.int64)
    # Among negative doubles a greater magnitude is a lower number.
    return np.where(bits < 0, bits ^ _MAGNITUDE, bits) >> _CELL_SHIFT


def numbers_of(cells: npt.NDArray[np.int64]) -> _Numbers:
    """The number of each cell that is nearest to zero: whole ones up to 8192 come back exactly."""
    low = np.asarray(cells, dtype=np.int64) << _CELL_SHIFT
    bits = np.where(low < 0, (low | ((1 << _CELL_SHIFT) - 1)) ^ _MAGNITUDE, low)
    return bits.view(np.float64)
