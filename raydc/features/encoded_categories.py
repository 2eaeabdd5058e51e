"""Fitted columns of categories that become numbers: their place in an order, or target means. Pure.

Used in tasks of Ray Data, the driver and replicas. A training row must not see its own target, so
its target mean is that of other rows: see `OutOfFold`.

Shape suffixes: B rows, W inputs of a column, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raydc.features.category_columns import Categorical
from raydc.features.raw_values import Values
from raydc.features.table_column import TableColumn, to_inputs
from raydc.order import Ids, mix

# Each fifth of the training rows is encoded by the other four.
NUM_FOLDS = 5
_FOLD_KEY = 0x5EED_F01D


def folds_of(row_ids: Ids) -> npt.NDArray[np.int64]:
    """Fold of each row, by a hash of its id and of nothing else, int64 [B]."""
    key = mix(np.array([_FOLD_KEY], dtype=np.uint64))
    folds_B: npt.NDArray[np.int64] = (
        mix(row_ids.astype(np.uint64) ^ key) % np.uint64(NUM_FOLDS)
    ).astype(np.int64)
    return folds_B


@dataclass(frozen=True)
class CategoryNumbers(TableColumn):
    """One or more numbers for each category, scaled as (number - shift) / scale.

    Attributes:
        categories: Categories with numbers of their own, the most frequent one first.
        numbers: One or more numbers for each of these categories.
        other: Numbers for any other category.
        missing: Numbers for a missing value.
        shift: What is subtracted from each of the numbers.
        scale: Divisor of each of the numbers, after the shift; not 0.
        marks_missing: Whether one more input is 1 where the value is missing, else 0.
    """

    categories: tuple[str, ...]
    numbers: tuple[tuple[float, ...], ...]
    other: tuple[float, ...]
    missing: tuple[float, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    marks_missing: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """See the base class."""
        return (0,) * len(self.other) + (1,) * self.marks_missing

    @cached_property
    def _coder(self) -> Categorical:
        return Categorical(self.categories, has_other=True, has_missing=True)

    @cached_property
    def _numbers(self) -> npt.NDArray[np.float64]:
        # In the order of the codes: other and missing values follow the categories.
        return np.array([*self.numbers, self.other, self.missing], dtype=np.float64)

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw values into inputs.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, W].

        Raises:
            DataError: A value is a list or an object.
        """
        codes_B = self._coder.codes(values, column, missing_values).astype(np.int64)
        numbers_BW = self._numbers[codes_B]
        scaled_BW = (numbers_BW - np.array(self.shift)) / np.array(self.scale)
        inputs = [to_inputs(s, n, column) for s, n in zip(scaled_BW.T, numbers_BW.T, strict=True)]
        if self.marks_missing:
            inputs.append((codes_B == len(self.categories) + 1).astype(np.float32))
        return np.stack(inputs, axis=1)


@dataclass(frozen=True)
class OrdinalCategory(CategoryNumbers):
    """The place of each category in an order, as a number; the mean place for unknown ones."""

    kind: ClassVar[str] = "ordinal"


@dataclass(frozen=True)
class TargetMean(CategoryNumbers):
    """The mean target of the training rows of each category.

    For a classification it is the fraction of each class, or of the second of two classes.
    Smoothing draws the mean of a category with few rows towards that of all rows.
    """

    kind: ClassVar[str] = "target"


@dataclass(frozen=True)
class OutOfFold(TableColumn):
    """Target means for training rows, each from the rows of all folds but its own.

    Used only while shards are written; everything else uses the means of all training rows.

    Attributes:
        without: For each fold, the column fitted without the rows of the fold.
        folds: Fold of each of the B rows that it will be applied to.
    """

    without: tuple[TargetMean, ...]
    folds: npt.NDArray[np.int64]
    kind: ClassVar[str] = "target"

    @property
    def widths(self) -> tuple[int, ...]:
        """See the base class."""
        return self.without[0].widths

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw values of the B training rows into inputs.

        Args:
            values: Raw values of the rows that `folds` is about, in the same order.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".
        """
        by_fold = np.stack([one.apply(values, column, missing_values) for one in self.without])
        inputs_BW: npt.NDArray[np.float32] = by_fold[self.folds, np.arange(len(self.folds))]
        return inputs_BW
