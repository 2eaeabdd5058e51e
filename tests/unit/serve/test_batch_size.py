"""Batches grow only as far as more rows a second justify."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from raydc.serve.replica import batch_size
from raydc.serve.replica.batch_size import best_batch_size


@pytest.mark.parametrize(
    ("forward_s", "expected"),
    [
        (lambda rows: 0.002, 64),  # A GPU that is not full.
        (lambda rows: 0.010 * rows, 1),  # A CPU that is full with one row.
        (
            lambda rows: 0.004 + 0.010 * rows,
            4,
        ),  # The fixed part is worth 4 rows, and 8 win less than a tenth.
        (lambda rows: 0.010 * rows if rows <= 4 else 0.030 * rows, 1),  # Caches overflow.
        (
            lambda rows: {1: 0.010, 2: 0.020}.get(rows, 0.002 * rows),
            4,
        ),  # Faster only from a size on.
        (lambda rows: 2.0, 1),  # There is no time to find out.
    ],
)
def test_best_batch_size_by_cost_of_rows(forward_s: Callable[[int], float], expected: int) -> None:
    assert best_batch_size(forward_s, 64) == expected


def test_best_batch_size_respects_the_maximum() -> None:
    tried: list[int] = []

    def forward_s(rows: int) -> float:
        tried.append(rows)
        return 0.001

    assert best_batch_size(forward_s, 6) == 6
    assert sorted(set(tried)) == [1, 2, 4, 6]
    assert best_batch_size(forward_s, 1) == 1


def test_best_batch_size_keeps_to_its_budget() -> None:
    tried: list[int] = []

    def forward_s(rows: int) -> float:
        tried.append(rows)
        return 0.1 * rows**0.5

    best_batch_size(forward_s, 64, budget_s=2.0)
    assert max(tried) == 4


def test_best_batch_size_stops_at_an_error_above_one_row() -> None:
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
def test_inline_check_gives_up_early_on_slow_models(
    times_s: list[float], expected: bool, num_tries: int
) -> None:
    tried: list[float] = []

    def forward_s() -> float:
        tried.append(times_s[min(len(tried), len(times_s) - 1)])
        return tried[-1]

    assert batch_size._is_within(1.0, forward_s) is expected
    assert len(tried) == num_tries


class Model:
    """A bundle whose forward passes take the seconds of `forward_s` by its own clock."""

    def __init__(self, forward_s: Callable[[int], float]) -> None:
        self.features = SimpleNamespace(
            signature=SimpleNamespace(kind="vector", shape=(2,), dtype="float32")
        )
        self.sizes: list[int] = []
        self.now_s = 0.0
        self._forward_s = forward_s

    def forward(self, x: Any) -> Any:
        assert (x.shape[1:], str(x.dtype)) == ((2,), "float32")
        self.sizes.append(len(x))
        self.now_s += self._forward_s(len(x))
        return x


@pytest.mark.parametrize(
    ("forward_s", "expected"),
    [
        (lambda rows: 0.0002, (True, 64)),
        (lambda rows: 0.0002 * rows, (False, 1)),  # A row is short, the largest batch is not.
        (lambda rows: 0.010, (False, 64)),
        (lambda rows: 0.010 * rows, (False, 1)),
    ],
)
def test_measure_runs_short_models_inline(
    monkeypatch: pytest.MonkeyPatch, forward_s: Callable[[int], float], expected: tuple[bool, int]
) -> None:
    model: Any = Model(forward_s)
    monkeypatch.setattr(batch_size.time, "perf_counter", lambda: model.now_s)
    assert batch_size.measure(model, 64) == expected
    assert model.sizes[0] == 1


def test_measure_ignores_the_first_slow_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Model(lambda rows: 5.0 if model.sizes.count(rows) == 1 else 0.0002)
    monkeypatch.setattr(batch_size.time, "perf_counter", lambda: model.now_s)
    assert batch_size.measure(model, 64) == (True, 64)
    assert model.sizes == [1, 1, 64, 64]


def test_best_batch_size_stops_after_two_sizes_without_gain() -> None:
    tried: set[int] = set()
    assert best_batch_size(lambda rows: tried.add(rows) or 0.001 * rows, 64) == 1
    assert tried == {1, 2, 4}
