"""Sums of doubles without rounding, so that no order of adding can change them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Finite doubles are whole multiples of 2**-1126 as `frexp` cuts them.
SHIFT = 1126
_LIMB_BITS = 18


def exact_moments(numbers: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Sum and sum of squares of finite doubles without rounding.

    Returns:
        The sum times 2**1126 and the sum of squares times 2**2252, whole numbers.
    """
    fractions, exponents = np.frexp(numbers)
    mantissas = (fractions * 2.0**53).astype(np.int64)
    total = squares = 0
    for exponent in np.unique(exponents):
        part = mantissas[exponents == exponent]
        shift = int(exponent) - 53 + SHIFT
        total += _exact_sum(part) << shift
        squares += _exact_sum_of_squares(np.abs(part)) << 2 * shift
    return total, squares


def _limbs(part: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    # 53 bits as three limbs, whose sums and products over 2**27 rows fit into 64 bits.
    mask = (1 << _LIMB_BITS) - 1
    return [part & mask, (part >> _LIMB_BITS) & mask, part >> 2 * _LIMB_BITS]


def _exact_sum(part: npt.NDArray[np.int64]) -> int:
    return sum(int(limb.sum()) << _LIMB_BITS * index for index, limb in enumerate(_limbs(part)))


def _exact_sum_of_squares(part: npt.NDArray[np.int64]) -> int:
    limbs = _limbs(part)
    return sum(
        int((low * high).sum()) << _LIMB_BITS * (i + j)
        for i, low in enumerate(limbs)
        for j, high in enumerate(limbs)
    )
