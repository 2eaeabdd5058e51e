"""Several objectives and constraints: the Pareto front, and points that are drawn with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydc.errors import RunError
from raydc.search.draws import LearnedDraws
from raydc.search.goals import NO_GOALS, Goals, pareto_front
from raydc.search.learned_points import LearnedPoints
from raydc.spec.space import Domain
from raydc.storage import Storage

WIDTH, RATE = "model.width", "train.learning_rate"
SPACE = {WIDTH: Domain(lograndint=[8, 1025]), RATE: Domain(loguniform=[1e-4, 1e-1])}
GOALS = Goals(("parameters",), {"parameters": 60_000, "latency_ms": 4.0})
NUM_SAMPLES, LAG = 40, 3
VALUES = st.integers(0, 4).map(float)


def metric_of(point: Mapping[str, Any]) -> float | None:
    """Better for wide networks at a rate of 0.01; None for those above a constraint."""
    if GOALS.excess(costs_of(point)):
        return None
    return math.log(point[WIDTH]) - abs(math.log10(point[RATE]) + 2)


def costs_of(point: Mapping[str, Any]) -> dict[str, float]:
    return {"parameters": 100.0 * point[WIDTH], "latency_ms": 0.01 * point[WIDTH]}


def begin(folder: Path, name: str, goals: Goals = GOALS, scale: float = 1.0) -> LearnedDraws:
    def measure(point: dict[str, Any]) -> dict[str, float]:
        costs = costs_of(point)
        return {**costs, "latency_ms": costs["latency_ms"] * scale}

    return LearnedDraws(
        Storage(str(folder)),
        name,
        LAG,
        SPACE,
        5,
        "max",
        NUM_SAMPLES,
        lambda point: json.dumps(point, sort_keys=True),
        goals=goals,
        measure=measure,
    )


def run(folder: Path, name: str, restarts: bool = False) -> LearnedDraws:
    draws = begin(folder, name)
    metrics: dict[int, float | None] = {}
    while draws.extend(metrics):
        metrics = {n: metric_of(one["all_values"]) for n, one in enumerate(draws.trials)}
        if restarts:
            draws = begin(folder, name)
    return draws


def lines(folder: Path) -> list[bytes]:
    return [Storage(str(folder)).read_bytes(name) for name in Storage(str(folder)).names()]


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_study_in_memory_draws_what_a_rebuilt_one_draws(tmp_path: Path, name: str) -> None:
    run(tmp_path / "memory", name)
    run(tmp_path / "rebuilt", name, restarts=True)
    assert lines(tmp_path / "rebuilt") == lines(tmp_path / "memory")
    assert len(lines(tmp_path / "memory")) == 1 + NUM_SAMPLES


def test_latency_that_was_seen_counts_when_draws_are_replayed(tmp_path: Path) -> None:
    whole = run(tmp_path, "nsga2")
    # Another machine measures other times.
    again = begin(tmp_path, "nsga2", scale=3.0)
    assert again.trials == whole.trials
    saw = json.loads(lines(tmp_path)[-1])["saw"]
    point = whole.trials[saw["trial"]]["all_values"]
    assert saw["costs"] == costs_of(point)


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_points_within_the_constraints_are_found(tmp_path: Path, name: str) -> None:
    draws = run(tmp_path, name)
    allowed = [not GOALS.excess(costs_of(one["all_values"])) for one in draws.trials]
    # Widths up to 400 are allowed: 0.8 of the range, in its logarithm.
    assert sum(allowed[-15:]) >= 14


@pytest.mark.parametrize("name", ["nsga2", "tpe", "gp"])
def test_points_without_costs_count_as_the_worst(name: str) -> None:
    goals = Goals(("parameters",), {"parameters": 90_000})
    points = LearnedPoints(name, SPACE, 5, "max", goals=goals)
    for number in range(12):
        point = points.draw().point
        # Networks of some widths cannot be built, the first one among them.
        is_built = number % 3 > 0
        costs = {"parameters": costs_of(point)["parameters"]} if is_built else {}
        points.tell(number, metric_of(point) if is_built else None, costs)
    points.draw()


@pytest.mark.parametrize(("name", "most"), [("nsga2", 6), ("tpe", 3)])
def test_points_above_a_limit_are_learned_from_without_their_other_costs(
    name: str, most: int
) -> None:
    goals = Goals(("latency_ms",), {"latency_ms": 4.0, "parameters": 9_000})
    points = LearnedPoints(name, SPACE, 5, "max", goals=goals, lag=LAG)
    widths: list[int] = []
    for number in range(NUM_SAMPLES):
        if (seen := number - LAG) >= 0:
            parameters = 100.0 * widths[seen]
            is_above = parameters > 9_000
            costs = {"parameters": parameters}
            if not is_above:
                costs["latency_ms"] = 0.01 * widths[seen]
            points.tell(seen, None if is_above else math.log(widths[seen]), costs)
        widths.append(points.draw().point[WIDTH])
    assert not points._untold, "a point above a limit says so at once"
    told = [trial for trial in points._study.trials if trial.values]
    assert any(trial.constraints["parameters"] > 0 for trial in told)
    # Half of the range is allowed, in its logarithm.
    assert sum(width > 90 for width in widths[-15:]) <= most


@pytest.mark.parametrize(("mode", "metric"), [("min", 2.3), ("max", -3.0)])
def test_trial_that_fails_first_is_not_the_best_of_a_study(mode: str, metric: float) -> None:
    points = LearnedPoints("nsga2", SPACE, 5, mode, goals=Goals(("parameters",)))
    for number in range(6):
        points.draw()
        # The cheapest one has no metric.
        points.tell(number, None if number == 0 else metric, {"parameters": 10.0 + number})
    told = {trial.number: trial.values for trial in points._study.trials if trial.values}
    sign = -1.0 if mode == "max" else 1.0
    assert sorted(told) == list(range(6))
    assert all(sign * told[0][0] > sign * told[other][0] for other in range(1, 6))


def test_draws_of_other_goals_are_refused(tmp_path: Path) -> None:
    run(tmp_path, "nsga2")
    for goals in (NO_GOALS, Goals(("parameters",), {"parameters": 50_000, "latency_ms": 4.0})):
        with pytest.raises(RunError, match="another decision"):
            begin(tmp_path, "nsga2", goals)


def test_journal_without_goals_says_nothing_of_them(tmp_path: Path) -> None:
    begin(tmp_path, "tpe", NO_GOALS).extend({})
    assert not {"objectives", "constraints"} & set(json.loads(lines(tmp_path)[0]))


@given(st.lists(st.tuples(st.none() | VALUES, VALUES, VALUES), max_size=12))
def test_front_is_what_nothing_dominates(rows: list[tuple[float | None, float, float]]) -> None:
    goals = Goals(("parameters",), {"latency_ms": 2.0})
    costs = [{"parameters": one, "latency_ms": other} for _, one, other in rows]
    found = pareto_front([metric for metric, _, _ in rows], costs, goals, "max")
    points = {n: (-m, p) for n, (m, p, late) in enumerate(rows) if m is not None and late <= 2.0}
    expected = [
        n
        for n, mine in points.items()
        if not any(
            other[0] <= mine[0] and other[1] <= mine[1] and (other != mine or m < n)
            for m, other in points.items()
            if m != n
        )
    ]
    assert sorted(found) == expected
    assert found == sorted(found, key=lambda n: points[n])
