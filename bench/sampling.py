"""Regret of search algorithms over the learning curves of LCBench: `bench/sweep.py --samplers`.

Each run draws 32 points of seven hyper-parameters for one of 34 data sets, with a seed. The metric
of a point is its accuracy after 27 epochs. Sample i sees the results of samples 0 to i - lag, as in
`raydc sweep`. Normalised regret is (best - found) / (best - median): `best` is the best of 3,000
random points, `median` that of 500 others. So 1 is a random guess of one point and 0 is the best.

`Optuna's TPE` is its sampler as it comes: 10 random points first, and 24 candidates for each draw.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bench.lcbench import SPACE, Floats, Surrogate, draw
from raydc.search.learned_points import LearnedPoints
from raydc.search.point import SpreadPoints, derive_seed, make_point, random_point
from raydc.spec.space import Domain

NUM_SAMPLES, NUM_EPOCHS = 32, 27
COUNTS = (8, 16, 24, 32)
# Most normalised regret after 32 samples.
GOAL = ("tpe", 8, 0.10)


class Points(Protocol):
    """Draws points one after the other."""

    def next_point(self) -> dict[str, Any]: ...

    def tell(self, number: int, metric: float) -> None: ...


def domains() -> dict[str, Domain]:
    """The space of LCBench, as `sweep.space` has it."""
    found = {}
    for name, (low, high, is_log, is_whole) in SPACE.items():
        kind = (
            ("lograndint" if is_log else "randint")
            if is_whole
            else ("loguniform" if is_log else "uniform")
        )
        found[name] = Domain.model_validate({kind: [low, high + 1 if is_whole else high]})
    return found


class Learned:
    """raydc's points that depend on results."""

    def __init__(self, name: str, seed: int, lag: int) -> None:
        self._points = LearnedPoints(name, domains(), seed, "max", lag=lag)

    def next_point(self) -> dict[str, Any]:
        return self._points.draw().point

    def tell(self, number: int, metric: float) -> None:
        self._points.tell(number, metric)


class Known:
    """Points that depend on no result."""

    def __init__(self, point: Callable[[int], dict[str, Any]]) -> None:
        self._point, self._number = point, -1

    def next_point(self) -> dict[str, Any]:
        self._number += 1
        return self._point(self._number)

    def tell(self, number: int, metric: float) -> None:
        """Nothing is learned."""


class OptunaTpe:
    """Optuna's TPE with its defaults, one sampler for the whole run."""

    def __init__(self, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, "optuna"))
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: list[Any] = []

    def next_point(self) -> dict[str, Any]:
        trial = self._study.ask()
        self._asked.append(trial)
        for name, domain in domains().items():
            suggest = trial.suggest_int if domain.is_whole else trial.suggest_float
            suggest(name, *domain.bounds, log=domain.is_logarithmic)
        return dict(trial.params)

    def tell(self, number: int, metric: float) -> None:
        self._study.tell(self._asked[number], metric)


def _random(seed: int) -> Points:
    return Known(lambda number: random_point(domains(), seed, number))


def _quasi_random(seed: int) -> Points:
    space = domains()
    spread = SpreadPoints(space, seed)
    return Known(lambda number: make_point(space, spread.choice(number)))


@dataclass(frozen=True)
class Contender:
    """A search algorithm with a lag.

    Attributes:
        name: Its name in the table.
        lag: Samples before the one that is drawn that are not seen, and the one itself.
        make: Makes it for a seed.
    """

    name: str
    lag: int
    make: Callable[[int], Points]


def contenders(with_gp: bool) -> list[Contender]:
    """The algorithms that are compared.

    Args:
        with_gp: Whether Gaussian processes are, which take a second for each draw.
    """
    found = [Contender("random", 1, _random), Contender("quasi_random", 1, _quasi_random)]
    for lag in (1, 8):
        found.append(Contender("Optuna's TPE", lag, OptunaTpe))
    for name in ("tpe", "cmaes", *(["gp"] if with_gp else [])):
        found += [Contender(name, lag, _learned(name, lag)) for lag in (1, 8)]
    return found


def _learned(name: str, lag: int) -> Callable[[int], Points]:
    return lambda seed: Learned(name, seed, lag)


def search(points: Points, lag: int, measure: Callable[[dict[str, Any]], float]) -> Iterator[float]:
    """Yields the best metric after each sample.

    Args:
        points: Draws the samples.
        lag: As of `Contender`.
        measure: Trains a point.
    """
    metrics: list[float] = []
    for number in range(NUM_SAMPLES):
        if number >= lag:
            points.tell(number - lag, metrics[number - lag])
        metrics.append(measure(points.next_point()))
        yield max(metrics)


def measure_samplers(surrogate: Surrogate, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Normalised regret of all contenders, one row for each."""
    tasks = surrogate.tasks[:: max(1, len(surrogate.tasks) // options.tasks)][: options.tasks]

    def finals(task: str, points: Floats) -> Floats:
        return surrogate.curves(task, points, NUM_EPOCHS)[0][:, -1]

    best = {task: finals(task, draw(99, 3000)).max() for task in tasks}
    median = {task: np.median(finals(task, draw(98, 500))) for task in tasks}
    rows = []
    for one in contenders(options.gp):
        regrets: list[list[float]] = []
        for task in tasks:

            def train(point: dict[str, Any], task: str = task) -> float:
                return float(finals(task, np.array([[point[name] for name in SPACE]]))[0])

            for seed in range(options.seeds):
                # Of its own for each task: the luck of the first points must not add up.
                points = one.make(1000 * int(task) + seed)
                found = list(search(points, one.lag, train))
                span = best[task] - median[task]
                regrets.append([float(best[task] - found[n - 1]) / float(span) for n in COUNTS])
        last = [regret[-1] for regret in regrets]
        rows.append(
            {
                "search_alg": one.name,
                "lag": one.lag,
                "regret": {
                    str(n): statistics.fmean(r[k] for r in regrets) for k, n in enumerate(COUNTS)
                },
                "standard_error": statistics.stdev(last) / len(last) ** 0.5,
                "runs": len(regrets),
            }
        )
        show_row(rows[-1])
    return rows


def show_row(row: dict[str, Any]) -> None:
    numbers = "".join(f"{row['regret'][str(count)]:8.3f}" for count in COUNTS)
    is_goal = (row["search_alg"], row["lag"]) == GOAL[:2]
    goal = f"  goal {GOAL[2]:.2f}" if is_goal else ""
    print(
        f"{row['search_alg']:14}{row['lag']:4}{numbers}{row['standard_error']:8.3f}{goal}",
        flush=True,
    )


def show_header() -> None:
    counts = "".join(f"{f'at {count}':>8}" for count in COUNTS)
    print(f"{'search_alg':14}{'lag':>4}{counts}{'+-':>8}")
