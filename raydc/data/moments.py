"""Sums of doubles without rounding, so that no order of adding can change them. Pure.

Not `math.fsum`: it is exact too, but it returns a rounded double, and rounded sums of blocks do not
merge. Adding them would round again, in a way that depends on where the blocks were cut.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

# Every finite double is a whole multiple of 2**-1126, counted from the 53-bit mantissa that
# `frexp` gives: the smallest subnormal, 2**-1074, has the exponent -1073, and -1073 - 53 = -1126.
SHIFT = 1126
# A mantissa of 53 bits is cut into three limbs. A sum of three products of limbs has 38 bits at
# most, and 2**15 of them stay below 2**53: a double holds each sum exactly, in any order.
_LIMB_BITS = 18
# Fewer than those 2**15, so that the arrays of a part stay in a cache of the CPU.
_MAX_ROWS = 1 << 14


def exact_moments(numbers: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Sums finite doubles and their squares without rounding.

    Args:
        numbers: float64 [B], finite numbers.

    Returns:
        The sum times 2**1126 and the sum of squares times 2**2252, whole numbers.
    """
    total = squares = 0
    for start in range(0, len(numbers), _MAX_ROWS):
        part = _exact_moments(numbers[start : start + _MAX_ROWS])
        total, squares = total + part[0], squares + part[1]
    return total, squares


def _exact_moments(numbers: npt.NDArray[np.float64]) -> tuple[int, int]:
    fractions, exponents = np.frexp(numbers)
    mantissas = np.abs(fractions * 2.0**53).astype(np.int64)
    mask = (1 << _LIMB_BITS) - 1
    low, middle, high = (
        limb.astype(np.float64)
        for limb in (mantissas & mask, mantissas >> _LIMB_BITS & mask, mantissas >> 2 * _LIMB_BITS)
    )
    signs = np.sign(numbers)
    # Numbers of one exponent are added together, and only their sums are shifted.
    lowest = int(exponents.min())
    groups = (exponents - lowest).astype(np.intp)

    def sums(values: npt.NDArray[np.float64]) -> int:
        return _shifted_sum(np.bincount(groups, values), 1)

    def sums_of_products(values: npt.NDArray[np.float64]) -> int:
        return _shifted_sum(np.bincount(groups, values), 2)

    shift = lowest - 53 + SHIFT
    total = (
        sums(low * signs)
        + (sums(middle * signs) << _LIMB_BITS)
        + (sums(high * signs) << 2 * _LIMB_BITS)
    )
    # Products of two different limbs occur twice in the square.
    squares = (
        sums_of_products(low * low)
        + (sums_of_products(low * middle) << _LIMB_BITS + 1)
        + (sums_of_products(2.0 * low * high + middle * middle) << 2 * _LIMB_BITS)
        + (sums_of_products(middle * high) << 3 * _LIMB_BITS + 1)
        + (sums_of_products(high * high) << 4 * _LIMB_BITS)
    )
    return total << shift, squares << 2 * shift


def _shifted_sum(sums: npt.NDArray[Any], factor: int) -> int:
    """Adds whole numbers, each shifted to the left by its index times a factor."""
    return sum(int(sums[index]) << factor * int(index) for index in np.flatnonzero(sums))


def square_root(square: Fraction) -> float:
    """Computes the square root of an exact fraction, rounded to a double once."""
    # The square of a double may lie outside the range of doubles; its root does not.
    return float(
        Fraction(math.isqrt((square.numerator << 2 * SHIFT) // square.denominator), 1 << SHIFT)
    )
