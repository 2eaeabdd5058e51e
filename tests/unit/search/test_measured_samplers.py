"""The bench of search algorithms: which results a sampler is told, and when."""

from __future__ import annotations

from typing import Any

import pytest

from bench.lcbench import SPACE
from bench.sampling import NUM_SAMPLES, Contender, contenders, domains, search
from raydc.search.learned_points import LearnedPoints


class Recorded:
    """Points that record what they are told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def next_point(self) -> dict[str, Any]:
        self.said.append(("drawn", sum(kind == "drawn" for kind, _ in self.said)))
        return {"x": self.said[-1][1]}

    def tell(self, number: int, metric: float) -> None:
        assert metric == -abs(number - 20)
        self.said.append(("told", number))


@pytest.mark.parametrize("lag", [1, 8])
def test_sample_is_drawn_with_the_results_up_to_its_lag(lag: int) -> None:
    points = Recorded()
    best = list(search(points, lag, lambda point: -abs(point["x"] - 20)))
    assert best == [-max(0, 20 - number) for number in range(NUM_SAMPLES)]
    for number in range(NUM_SAMPLES):
        before = points.said[: points.said.index(("drawn", number))]
        told = [told for kind, told in before if kind == "told"]
        assert told == list(range(number - lag + 1))


@pytest.mark.parametrize("one", contenders(with_gp=False), ids=lambda one: f"{one.name} {one.lag}")
def test_contenders_draw_points_of_the_space(one: Contender) -> None:
    points = one.make(3)
    for number in range(12):
        drawn = points.next_point()
        assert list(drawn) == list(SPACE)
        for name, (low, high, _, is_whole) in SPACE.items():
            assert low <= drawn[name] <= high
            assert type(drawn[name]) is (int if is_whole else float)
        points.tell(number, float(number % 5))


def test_contender_draws_what_a_sweep_draws() -> None:
    """Otherwise the table would be about something else than `raydc sweep`."""
    [one] = [one for one in contenders(with_gp=False) if (one.name, one.lag) == ("tpe", 8)]
    points = one.make(3)
    same = LearnedPoints("tpe", domains(), 3, "max", lag=8)
    for number in range(8):
        assert points.next_point() == same.draw().point
        points.tell(number, 0.1 * number)
        same.tell(number, 0.1 * number)
