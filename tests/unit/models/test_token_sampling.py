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


def test_a_large_vocabulary_gives_the_tokens_of_a_stable_sort_of_all_codes() -> None:
    """So that an answer with a seed stays the same from one version of raydc to the next."""
    random = np.random.default_rng(0)
    # Rounded, so that many codes have equal scores.
    scores_V = random.normal(0, 3, 50_000).astype(np.float16).astype(np.float32)
    for position in range(100):
        sampling = TokenSampling(1.0 + position / 100, (0.3, 0.9, 0.999)[position % 3], seed=7)
        scaled_V = (scores_V.astype(np.float64) - scores_V.max()) / sampling.temperature
        chances_V = np.exp(scaled_V)
        order_V = np.argsort(-chances_V, kind="stable")
        reached_V = np.cumsum(chances_V[order_V])
        count = int(np.searchsorted(reached_V, sampling.top_p * reached_V[-1])) + 1
        draw = np.random.Generator(np.random.Philox(key=7, counter=position)).random()
        place = np.searchsorted(reached_V[:count], draw * reached_V[count - 1], side="right")
        assert sampling.choose(scores_V, position) == order_V[min(place, count - 1)]


@pytest.mark.parametrize("temperature", [1e-310, 1e-6])
def test_a_tiny_temperature_is_greedy_without_a_warning(temperature: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_many(TokenSampling(temperature), 50) == {1: 50}
