"""Sums of doubles without rounding, so that no order of adding can change them. Pure.

Not `math.fsum`: it is exact too, but it returns a rounded double, and rounded sums of blocks do not
merge. Adding them would round again, in a way that depends on where the blocks were cut.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

# Every finite double is a whole multiple of 2**-1126, counted from the 53-bit mantissa that
# `frexp` gives: the smallest subnormal, 2**-1074, has the exponent -1073, and -1073 - 53 = -1126.
SHIFT = 1126
# Three limbs hold 54 bits. A product of two has 36 bits, and 2**27 of those fit into an int64.
_LIMB_BITS = 18


def exact_moments(numbers: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Sums finite doubles and their squares without rounding.

    Args:
        numbers: float64 [B], at most 2**27 finite numbers.

    Returns:
        The sum times 2**1126 and the sum of squares times 2**2252, whole numbers.
    """
    fractions, exponents = np.frexp(numbers)
    mantissas = (fractions * 2.0**53).astype(np.int64)
    total = squares = 0
    # Numbers of one exponent are added as integers, and only their sum is shifted.
    for exponent in np.unique(exponents):
        part = mantissas[exponents == exponent]
        shift = int(exponent) - 53 + SHIFT
        total += _exact_sum(part) << shift
        squares += _exact_sum_of_squares(np.abs(part)) << 2 * shift
    return total, squares


def _limbs(part: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    # The highest limb keeps the sign, as the shift is arithmetic.
    mask = (1 << _LIMB_BITS) - 1
    return [part & mask, (part >> _LIMB_BITS) & mask, part >> 2 * _LIMB_BITS]


def _exact_sum(part: npt.NDArray[np.int64]) -> int:
    return sum(int(limb.sum()) << _LIMB_BITS * index for index, limb in enumerate(_limbs(part)))


def _exact_sum_of_squares(part: npt.NDArray[np.int64]) -> int:
    limbs = _limbs(part)
    # A product of two different limbs occurs twice in the square.
    return sum(
        int((limbs[i] * limbs[j]).sum()) << _LIMB_BITS * (i + j) + (i != j)
        for i, j in itertools.combinations_with_replacement(range(len(limbs)), 2)
    )


def square_root(square: Fraction) -> float:
    """Computes the square root of an exact fraction, rounded to a double once."""
    # The square of a double may lie outside the range of doubles; its root does not.
    return float(
        Fraction(math.isqrt((square.numerator << 2 * SHIFT) // square.denominator), 1 << SHIFT)
    )
