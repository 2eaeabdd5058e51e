"""A batch is as large as brings rows a second, and no larger."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raydc.serve import pace
from raydc.serve.pace import best_batch_size


@pytest.mark.parametrize(
    ("forward_s", "expected"),
    [
        (lambda rows: 0.002, 64),  # A GPU that is not full.
        (lambda rows: 0.010 * rows, 1),  # A CPU that is full with one row.
        (lambda rows: 0.004 + 0.010 * rows, 4),  # The fixed part is worth 4 rows, and 8 win less than a tenth.
        (lambda rows: 0.010 * rows if rows <= 4 else 0.030 * rows, 1),  # Caches overflow.
        (lambda rows: {1: 0.010, 2: 0.020}.get(rows, 0.002 * rows), 4),  # Faster only from a size on.
        (lambda rows: 2.0, 1),  # There is no time to find out.
    ],
)
def test_the_size_of_a_batch(forward_s: Callable[[int], float], expected: int) -> None:
    assert best_batch_size(forward_s, 64) == expected


def test_no_batch_is_larger_than_may_be() -> None:
    tried: list[int] = []

    def forward_s(rows: int) -> float:
        tried.append(rows)
        return 0.001

    assert best_batch_size(forward_s, 6) == 6
    assert sorted(set(tried)) == [1, 2, 4, 6]
    assert best_batch_size(forward_s, 1) == 1


def test_a_size_that_would_take_too_long_is_not_tried() -> None:
    tried: list[int] = []

    def forward_s(rows: int) -> float:
        tried.append(rows)
        return 0.1 * rows**0.5

    best_batch_size(forward_s, 64, budget_s=2.0)
    assert max(tried) == 4


def test_a_batch_that_does_not_fit_ends_the_search_and_a_row_that_does_not_is_an_error() -> None:
    def forward_s(rows: int) -> float:
        if rows > most:
            raise RuntimeError("out of memory")
        return 0.001

    most = 8
    assert best_batch_size(forward_s, 64) == 8
    most = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        best_batch_size(forward_s, 64)


@pytest.mark.parametrize(
    ("times_s", "expected", "num_tries"),
    [([0.5], True, 1), ([3.0, 2.0, 0.9], True, 3), ([20.0], False, 3), ([50.0, 2.0], False, 20)],
)
def test_a_slow_model_is_not_tried_long(times_s: list[float], expected: bool, num_tries: int) -> None:
    tried: list[float] = []

    def forward_s() -> float:
        tried.append(times_s[min(len(tried), len(times_s) - 1)])
        return tried[-1]

    assert pace._is_within(1.0, forward_s) is expected
    assert len(tried) == num_tries
