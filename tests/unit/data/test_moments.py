"""Sums and sums of squares without rounding."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from raydc.data import moments

NUMBERS = [
    np.array([0.1] * 10),
    np.array([1e308, 1.0, -1e308, 5e-324]),
    np.array([-1.5, 2.25, 1e-300, -0.0]),
    np.random.default_rng(0).normal(size=1000)
    * 10.0 ** np.random.default_rng(1).integers(-50, 50, 1000),
    np.array([]),
]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_exact_moments_equal_sums_of_fractions(numbers: Any) -> None:
    total, squares = moments.exact_moments(numbers)
    exact = [Fraction(number) for number in numbers.tolist()]
    assert Fraction(total, 1 << moments.SHIFT) == sum(exact)
    assert Fraction(squares, 1 << 2 * moments.SHIFT) == sum(number * number for number in exact)


def test_exact_moments_of_blocks_add_up_in_any_order() -> None:
    # What `math.fsum` cannot do: its sums of blocks are rounded.
    numbers = NUMBERS[3]
    whole = moments.exact_moments(numbers)
    cut = np.split(np.random.default_rng(2).permutation(numbers), [1, 10, 400, 999])
    assert (
        tuple(map(sum, zip(*(moments.exact_moments(part) for part in cut), strict=True))) == whole
    )
    assert math.fsum(numbers) == float(Fraction(whole[0], 1 << moments.SHIFT))
