"""The choice of a token: greedy, by temperature, from a nucleus; one draw for one seed."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest

from raydc.models.token_sampling import TokenSampling

SCORES = np.log(np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32))


def draw_many(sampling: TokenSampling, count: int = 4000) -> Counter[int]:
    return Counter(sampling.choose(SCORES, position) for position in range(count))


def test_temperature_zero_takes_the_greatest_and_of_equal_ones_the_first() -> None:
    assert TokenSampling(0.0, seed=5).choose(SCORES, 3) == 1
    assert TokenSampling().choose(np.array([1.0, 2.0, 2.0], dtype=np.float32), 0) == 1


def test_draws_have_the_chances_of_the_scores() -> None:
    found = draw_many(TokenSampling(1.0, seed=3))
    expected = {0: 400, 1: 1600, 2: 800, 3: 1200}
    assert all(abs(found[code] - count) < 130 for code, count in expected.items())


def test_a_low_temperature_makes_likely_tokens_likelier() -> None:
    found = draw_many(TokenSampling(0.5, seed=3))
    # Chances are squared: 1 : 16 : 4 : 9.
    assert abs(found[1] - 4000 * 16 / 30) < 130
    assert abs(found[0] - 4000 / 30) < 60


def test_the_nucleus_has_the_fewest_tokens_that_reach_top_p() -> None:
    assert set(draw_many(TokenSampling(1.0, 0.4, 1))) == {1}
    assert set(draw_many(TokenSampling(1.0, 0.69, 1))) == {1, 3}
    assert set(draw_many(TokenSampling(1.0, 0.75, 1))) == {1, 2, 3}
    assert set(draw_many(TokenSampling(1.0, 1e-9, 1))) == {1}


def test_a_draw_is_a_function_of_seed_and_position() -> None:
    sampling = TokenSampling(1.3, 0.95, 2**64 - 1)
    forwards = [sampling.choose(SCORES, position) for position in range(50)]
    backwards = [sampling.choose(SCORES, position) for position in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [TokenSampling(1.3, 0.95, 1).choose(SCORES, one) for one in range(50)]


@pytest.mark.parametrize("temperature", [1e-310, 1e-6])
def test_a_tiny_temperature_is_greedy_without_a_warning(temperature: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_many(TokenSampling(temperature), 50) == {1: 50}
