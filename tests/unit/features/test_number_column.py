"""Numbers along a curve: logarithms and ranks, the same for a block and one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import QuantileTransformer

from raydc.features import Numeric
from raydc.features.columns import column_from_dict, column_to_dict
from raydc.features.number_column import ranks_among, signed_log

NO_MARKS: frozenset[str] = frozenset()


def _numbers(count: int = 400) -> Any:
    choose = np.random.default_rng(0)
    # Half of a column like a capital gain is 0.
    return np.where(choose.random(count) < 0.5, 0.0, np.round(choose.exponential(900, count), 1))


def test_logarithm_is_log1p_and_its_mirror() -> None:
    numbers = np.array([0.0, 1e-300, 0.5, 3.0, 1e300])
    np.testing.assert_allclose(signed_log(numbers), np.log1p(numbers), rtol=1e-15)
    np.testing.assert_array_equal(signed_log(-numbers), -signed_log(numbers))
    assert math.copysign(1.0, signed_log(np.array([-0.0]))[0]) == -1.0


@pytest.mark.parametrize("num_quantiles", [1, 2, 7, 100])
def test_ranks_equal_those_of_scikit_learn(num_quantiles: int) -> None:
    numbers = _numbers()
    theirs = QuantileTransformer(n_quantiles=num_quantiles, subsample=None)
    theirs.fit(numbers[:, None])
    # Also between all numbers, on the quantiles themselves, and beyond the ends.
    asked = np.concatenate([numbers, theirs.quantiles_[:, 0], np.linspace(-50, 9000, 333)])
    ours = ranks_among(asked, theirs.quantiles_[:, 0])
    np.testing.assert_allclose(ours, theirs.transform(asked[:, None])[:, 0], atol=1e-12)


def test_ranks_are_between_0_and_1_and_never_fall() -> None:
    quantiles = np.quantile(_numbers(), np.linspace(0, 1, 50))
    ranks = ranks_among(np.linspace(-10, 9000, 1000), quantiles)
    assert (ranks.min(), ranks.max()) == (0.0, 1.0)
    assert (np.diff(ranks) >= 0).all()
    assert ranks_among(np.array([1.0, 5.0, 9.0]), np.array([5.0])).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "column",
    [
        Numeric(300.0, 2.0, 3.0, is_log=True),
        Numeric(300.0, 0.0, 1.0, quantiles=tuple(np.quantile(_numbers(), np.linspace(0, 1, 99)))),
        Numeric(300.0, 1.0, 2.0, -5.0, 900.0, marks_missing=True, is_log=True),
    ],
)
def test_curve_gives_the_same_bits_for_a_block_and_one_by_one(column: Numeric) -> None:
    numbers = [*_numbers(101).tolist(), None, -7.25]
    block = column.apply(numbers, "a", NO_MARKS)
    single = [column.apply([number], "a", NO_MARKS)[0] for number in numbers]
    np.testing.assert_array_equal(block.view(np.uint32), np.array(single).view(np.uint32))
    # As a view with gaps in memory, too, for which numpy has other loops.
    gaps = np.array([[float(n), 0.0] for n in numbers if n is not None])[:, 0]
    kept = [row for row, number in enumerate(numbers) if number is not None]
    np.testing.assert_array_equal(column.apply(gaps, "a", NO_MARKS), block[kept])
    assert not column.is_plain
    assert column_from_dict(column_to_dict(column)) == column


def test_plain_column_keeps_its_json() -> None:
    assert column_to_dict(Numeric(1.0, 2.0, 3.0)) == {
        "kind": "numeric",
        "mean": 1.0,
        "shift": 2.0,
        "scale": 3.0,
    }
