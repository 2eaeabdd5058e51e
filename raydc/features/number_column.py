"""The fitted column of numbers, which are scaled linearly, by logarithm or by rank. Pure.

Used in tasks of Ray Data, the driver and replicas.

Shape suffixes: B rows, W inputs of a column, Q quantiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raydc.features.raw_values import Values, numbers
from raydc.features.table_column import TableColumn, to_inputs

Floats = npt.NDArray[np.float64]


def signed_log(numbers_B: Floats) -> Floats:
    """Logarithm of 1 + |x|, with the sign of x.

    It accepts every number: those of clients may be below all that training has seen.
    """
    # One by one with the C library: numpy rounds some logarithms differently, depending on the CPU
    # and on the alignment of the array.
    return np.array(
        [math.copysign(math.log1p(abs(number)), number) for number in numbers_B.tolist()],
        dtype=np.float64,
    )


def ranks_among(numbers_B: Floats, quantiles_Q: Floats) -> Floats:
    """Rank of each number among quantiles, from 0 for the lowest to 1 for the highest.

    Ranks between two quantiles are interpolated. A number that equals several quantiles has their
    middle rank, but the lowest has 0 and the highest 1.

    Args:
        numbers_B: Numbers, none of which is NaN.
        quantiles_Q: Quantiles in ascending order, at equal distances of rank.
    """
    last = len(quantiles_Q) - 1
    first_B = np.searchsorted(quantiles_Q, numbers_B, side="left")
    after_B = np.searchsorted(quantiles_Q, numbers_B, side="right")
    # Not `np.interp`, which rounds differently depending on the number of values.
    low_B = np.clip(first_B - 1, 0, max(0, last - 1))
    below_B, above_B = quantiles_Q[low_B], quantiles_Q[np.minimum(low_B + 1, last)]
    gaps_B = np.where(above_B > below_B, above_B - below_B, 1.0)
    between_B = low_B + (numbers_B - below_B) / gaps_B
    ranks_B = np.where(after_B > first_B, (first_B + after_B - 1) / 2.0, between_B)
    ranks_B = np.where(numbers_B >= quantiles_Q[-1], float(last), ranks_B)
    ranks_B = np.where(numbers_B <= quantiles_Q[0], 0.0, ranks_B)
    return ranks_B / max(1, last)


@dataclass(frozen=True)
class Numeric(TableColumn):
    """One input, (value - shift) / scale, and one that is 1 where the value is missing if wanted.

    Attributes:
        mean: Number that replaces a missing one; the mean of training rows by default.
        shift: What is subtracted from each number.
        scale: Divisor that is applied after the shift; not 0.
        low, high: Limits to which numbers beyond them are clipped; None if there is none.
        marks_missing: Whether a second input is 1 where the value is missing, else 0.
        is_log: Whether `signed_log` of the number is scaled, instead of the number.
        quantiles: Quantiles among which the rank is scaled, instead of the number; or empty.
    """

    mean: float
    shift: float
    scale: float
    low: float | None = None
    high: float | None = None
    marks_missing: bool = False
    is_log: bool = False
    quantiles: tuple[float, ...] = ()
    kind: ClassVar[str] = "numeric"

    @property
    def widths(self) -> tuple[int, ...]:
        """See the base class."""
        return (0, 1) if self.marks_missing else (0,)

    @property
    def is_plain(self) -> bool:
        """Whether its only input is the scaled number itself."""
        is_straight = not self.is_log and not self.quantiles
        return is_straight and not self.marks_missing and self.low is None and self.high is None

    @cached_property
    def _quantiles(self) -> Floats:
        return np.array(self.quantiles, dtype=np.float64)

    def scaled(self, numbers_B: Floats) -> Floats:
        """Scales numbers as the inputs are, without their limits.

        Args:
            numbers_B: Numbers, none of which is missing.

        Returns:
            float64 [B].
        """
        if self.is_log:
            numbers_B = signed_log(numbers_B)
        elif self.quantiles:
            numbers_B = ranks_among(numbers_B, self._quantiles)
        return (numbers_B - self.shift) / self.scale

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw values into inputs.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, W], where W is 1, or 2 with a mark of missing values.

        Raises:
            DataError: A value is not a number, or float32 cannot hold its input.
        """
        numbers_B = numbers(values, column, missing_values)
        missing_B = np.isnan(numbers_B)
        numbers_B[missing_B] = self.mean
        if self.low is not None or self.high is not None:
            numbers_B = np.clip(numbers_B, self.low, self.high)
        with np.errstate(over="ignore"):
            scaled_B = self.scaled(numbers_B)
        inputs_B = to_inputs(scaled_B, numbers_B, column)
        if self.marks_missing:
            return np.stack([inputs_B, missing_B.astype(np.float32)], axis=1)
        return inputs_B[:, None]
