"""Points that are chosen with the results of earlier ones, by Optuna. Pure; used by the driver.

A draw is a function of (seed, number of the sample, points of all samples before, results of those
that it sees). Optuna's samplers have random state and caches of their own, so each draw gets a new
one. What they keep in the study is made again when a draw of the journal is replayed.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydc.search import believed_results, optuna_samplers
from raydc.search.fractions import Fractions
from raydc.search.goals import NO_GOALS, Goals
from raydc.search.optuna_samplers import FEWEST_RESULTS, FEWEST_SAMPLES, POPULATION
from raydc.search.point import (
    Choose,
    Space,
    SpreadPoints,
    all_domains,
    derive_seed,
    is_ordered,
    make_point,
)
from raydc.spec.space import Domain

# These keep their state in the trials of the study, also in those whose point is given.
_WITH_STATE = ("cmaes", "nsga2")
# With fewer metrics nobody knows which one is bad, and a trial that has failed waits for them.
_FEWEST_METRICS = 4


@dataclass(frozen=True)
class Draw:
    """One draw.

    Attributes:
        numbers: What was drawn of each domain, by its name: a number, or a place in a list.
        point: Values by spec path.
    """

    numbers: dict[str, Any]
    point: dict[str, Any]


@dataclass(frozen=True)
class Observation:
    """A result of another sweep: what was drawn there, by the names of this space, and its metric.

    Attributes:
        numbers: As of `Draw`.
        metric: Its metric; None for the worst of all.
    """

    numbers: Mapping[str, Any]
    metric: float | None


class LearnedPoints:
    """A study of Optuna that draws one point after the other.

    Methods: TPE (Bergstra et al., 2011), of several objectives as in Ozaki et al., 2022; Gaussian
    processes with expected improvement (Jones et al., 1998); CMA-ES (Hansen and Ostermeier, 2001);
    NSGA-II (Deb et al., 2002), whose constrained domination prefers points within constraints.

    Args:
        name: `tpe`, `gp`, `cmaes` or `nsga2`.
        space: Domains by spec path.
        seed: Seed of the spec.
        mode: Whether the largest or the smallest metric is the best: `max` or `min`.
        known: Results of other sweeps, which come first.
        goals: Costs that count beside the metric.
        lag: How many samples before the one that is drawn are not seen, and the one itself.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        seed: int,
        mode: str,
        known: Sequence[Observation] = (),
        goals: Goals = NO_GOALS,
        lag: int = 1,
    ) -> None:
        import optuna

        if name == "cmaes":
            # Optuna imports it for the first draw that needs it, when trials have run.
            import cmaes  # noqa: F401
        # Its lines would be between those of the sweep.
        logging.getLogger("optuna").setLevel(logging.ERROR)
        self._name, self._space, self._seed = name, space, seed
        self._mode, self._worst = mode, -math.inf if mode == "max" else math.inf
        self._goals = goals
        self._has_lag = lag > 1
        directions = ["maximize" if mode == "max" else "minimize"]
        directions += ["minimize" for _ in goals.objectives]
        self._study = optuna.create_study(directions=directions)
        # Metrics of trials that have one, in the order in which they were told.
        self._metrics: list[float] = []
        # The largest costs so far, by name.
        self._most: dict[str, float] = {}
        # Results that failed trials wait to be told with: number, metric and costs.
        self._untold: list[tuple[int, float | None, dict[str, float]]] = []
        self._spread = SpreadPoints(space, seed)
        domains = all_domains(space)
        self._asked: list[Any] = []
        self._numbers: list[dict[str, Any]] = []
        self._told: set[int] = set()
        # What was drawn for each result, and its metric: higher is better.
        self._results: list[tuple[Mapping[str, Any], float]] = []
        self._num_known = len(known)
        for one in known:
            trial = optuna.trial.create_trial(
                params=dict(one.numbers),
                distributions={path: distribution(domains[path]) for path in one.numbers},
                value=self._worst if one.metric is None else one.metric,
            )
            self._study.add_trial(trial)
            self._note(one.numbers, one.metric)

    def draw(self) -> Draw:
        """Draws the next point."""
        number = len(self._asked)
        is_early = number + self._num_known < FEWEST_SAMPLES[self._name]
        if self._name == "nsga2":
            # Whatever is known: parents are taken from a whole generation.
            is_early = number < POPULATION
        if is_early or len(self._results) < FEWEST_RESULTS[self._name]:
            return self._take(self._spread.choice(number))
        if self._name in _WITH_STATE:
            return self._take(None)
        if self._believes(number):
            return self._take(self._draw_believing(number))
        import optuna

        # What a sampler notes in a trial that runs would not be there when the draw is replayed.
        scratch = self._ask()
        numbers = self._suggest(scratch).numbers
        self._study.tell(scratch, state=optuna.trial.TrialState.FAIL)
        return self.replay(numbers)

    def _believes(self, number: int) -> bool:
        """Whether a draw of TPE takes what it believes of samples that run as their results.

        Every other one does, which finds better points than all or none of them.
        """
        is_possible = self._has_lag and not self._goals.costs
        few = len(self._results) <= believed_results.MOST_RESULTS
        return self._name == "tpe" and is_possible and few and number % 2 == 0

    def _draw_believing(self, number: int) -> Choose:
        running = [one for place, one in enumerate(self._numbers) if place not in self._told]
        seed = derive_seed(self._seed, f"believed {number}")
        return believed_results.draw_row(Fractions(self._space), self._results, running, seed)

    def replay(self, numbers: Mapping[str, Any]) -> Draw:
        """Takes a draw that was made before, whatever would be drawn now.

        Args:
            numbers: Those of the next draw.
        """
        return self._take(lambda name, _: numbers[name])

    def tell(
        self, number: int, metric: float | None, costs: Mapping[str, float] | None = None
    ) -> None:
        """Gives a result.

        Args:
            number: Number of a sample that was drawn.
            metric: Its metric; None for the worst of all.
            costs: What the point costs, as far as there are goals; empty for one whose network
                cannot be built, which counts as the most costly. Of one that is above a limit
                some may be missing.
        """
        if metric is not None:
            self._metrics.append(metric)
        for name, cost in (costs or {}).items():
            self._most[name] = max(cost, self._most.get(name, cost))
        waiting = [*self._untold, (number, metric, dict(costs or {}))]
        self._untold = [one for one in waiting if not self._is_comparable(*one[1:])]
        for one in waiting:
            if one not in self._untold:
                self._tell(*one)

    def _is_comparable(self, metric: float | None, costs: Mapping[str, float]) -> bool:
        """Whether enough is known to say what the worst of all is, for a trial that has failed."""
        if metric is not None:
            return True
        if not costs and not set(self._goals.costs) <= set(self._most):
            return False
        # How bad a trial above a limit is, its constraints say.
        is_above = bool(costs) and bool(self._goals.excess(costs))
        return not self._goals.objectives or is_above or len(self._metrics) >= _FEWEST_METRICS

    def _tell(self, number: int, metric: float | None, costs: Mapping[str, float]) -> None:
        trial = self._asked[number]
        # A network that cannot be built has no costs.
        costs = costs or self._most
        for name, most in self._goals.constraints.items():
            # How far a point is above its limits, those say that are known.
            trial.set_constraint(name, costs.get(name, most) - most)
        worst = self._worst_finite() if self._goals.objectives else self._worst
        value = worst if metric is None else metric
        # Points above a limit are compared by that alone: any number will do where none is known.
        others = [costs.get(name, self._most.get(name, 0.0)) for name in self._goals.objectives]
        with warnings.catch_warnings():
            # That CMA-ES sees no constraints: what is above one is the worst for it.
            warnings.simplefilter("ignore")
            self._study.tell(trial, [value, *others])
        self._told.add(number)
        self._note(self._numbers[number], metric)

    def _note(self, numbers: Mapping[str, Any], metric: float | None) -> None:
        sign = 1.0 if self._mode == "max" else -1.0
        self._results.append((numbers, -math.inf if metric is None else sign * metric))

    def _worst_finite(self) -> float:
        """A metric that is as much worse than the worst so far as that is than the best.

        Hypervolumes and distances of points have no use for infinite ones.
        """
        low, high = min(self._metrics, default=0.0), max(self._metrics, default=0.0)
        # Equal metrics say nothing of their range.
        distance = high - low or abs(low) or 1.0
        return low - distance if self._mode == "max" else high + distance

    def _take(self, fixed: Choose | None) -> Draw:
        """Adds the next trial to the study, with a given point or one of the sampler."""
        if fixed is not None:
            numbers: dict[str, Any] = {}
            make_point(self._space, _record(fixed, numbers))
            self._study.enqueue_trial(numbers)
        trial = self._ask()
        if self._name in _WITH_STATE:
            _ = trial.relative_params
        self._asked.append(trial)
        draw = self._suggest(trial)
        self._numbers.append(draw.numbers)
        return draw

    def _ask(self) -> Any:
        number = len(self._asked)
        seed = derive_seed(self._seed, number)
        with warnings.catch_warnings():
            # Of options that Optuna calls experimental, and of infinite metrics.
            warnings.simplefilter("ignore")
            self._study.sampler = optuna_samplers.make(
                self._name, seed, number, self._has_lag, bool(self._goals.objectives)
            )
            return self._study.ask()

    def _suggest(self, trial: Any) -> Draw:
        """Draws the point of a trial, domain by domain."""
        numbers: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            point = make_point(
                self._space,
                _record(lambda name, domain: _suggest(trial, name, domain), numbers),
            )
        return Draw(numbers, point)


def _record(choose: Choose, numbers: dict[str, Any]) -> Choose:
    def record(name: str, domain: Domain) -> Any:
        numbers[name] = choose(name, domain)
        return numbers[name]

    return record


def _suggest(trial: Any, name: str, domain: Domain) -> Any:
    if domain.values is not None and not is_ordered(domain):
        return trial.suggest_categorical(name, range(len(domain.values)))
    if domain.values is not None:
        return trial.suggest_int(name, 0, len(domain.values) - 1)
    suggest = trial.suggest_int if domain.is_whole else trial.suggest_float
    return suggest(name, *domain.bounds, log=domain.is_logarithmic)


def distribution(domain: Domain) -> Any:
    """The distribution that `_suggest` asks for."""
    from optuna import distributions

    if domain.values is not None and not is_ordered(domain):
        return distributions.CategoricalDistribution(range(len(domain.values)))
    if domain.values is not None:
        return distributions.IntDistribution(0, len(domain.values) - 1)
    kind: Any = distributions.FloatDistribution
    if domain.is_whole:
        kind = distributions.IntDistribution
    return kind(*domain.bounds, log=domain.is_logarithmic)
