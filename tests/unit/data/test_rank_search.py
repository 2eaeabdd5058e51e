"""Ranks and most frequent keys, whatever the cut into blocks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from raydc.data import rank_search


def _search(
    parts: list[dict[str, rank_search.Keys]],
    wanted: dict[str, rank_search.Ranks],
    bits: int = rank_search.FEW_RANKS,
) -> dict[str, list[int]]:
    def count(heads: dict[str, list[int]], level: int) -> rank_search.Counts:
        return rank_search.merge_counts(
            rank_search.count_digits(part, heads, level, bits) for part in parts
        )

    return rank_search.find_ranks(wanted, count, bits)


def test_keys_are_in_the_order_of_their_numbers() -> None:
    numbers = [-math.inf, -1e300, -2.5, -5e-324, 0.0, 5e-324, 1.0, 1.0000000000000002, math.inf]
    keys = rank_search.keys_of(np.array(numbers))
    assert (np.diff(keys.astype(object)) > 0).all()
    assert [rank_search.number_of(key) for key in keys.tolist()] == numbers
    assert rank_search.keys_of(np.array([-0.0])) == rank_search.keys_of(np.array([0.0]))


@pytest.mark.parametrize("bits", [rank_search.FEW_RANKS, rank_search.MANY_RANKS])
@pytest.mark.parametrize("num_parts", [1, 3, 50])
def test_ranks_equal_those_of_a_sort(num_parts: int, bits: int) -> None:
    generator = np.random.default_rng(0)
    numbers = {
        "normal": generator.normal(size=500),
        "few": generator.integers(-3, 3, 500).astype(float),
        "wide": generator.normal(size=500) * 10.0 ** generator.integers(-300, 300, 500),
        "level": np.array([7.0]),
    }
    parts = [
        {name: rank_search.keys_of(values[part::num_parts]) for name, values in numbers.items()}
        for part in range(num_parts)
    ]
    found = _search(parts, {name: lambda n: range(0, n, 7) for name in numbers}, bits)
    for name, values in numbers.items():
        expected = np.sort(values)[::7].tolist()
        assert [rank_search.number_of(key) for key in found[name]] == expected


def test_series_without_keys_has_no_ranks() -> None:
    empty = {"a": rank_search.keys_of(np.array([]))}
    assert _search([empty], {"a": lambda n: [n // 2]}) == {"a": []}


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_most_frequent_key_is_the_least_of_several(num_parts: int) -> None:
    keys = rank_search.keys_of(np.array([4.0, 2.0, 9.0, 2.0, 4.0, 1.0]))
    best = []
    for part in range(num_parts):
        total: Counter[int] = Counter()
        for block in (keys[:2], keys[2:]):
            total.update(rank_search.count_values({"a": block}, part, num_parts)["a"])
        best.append(rank_search.most_frequent(total))
    key = rank_search.merge_most_frequent(best)
    assert key is not None
    assert rank_search.number_of(key) == 2.0
    assert rank_search.merge_most_frequent([None]) is None
