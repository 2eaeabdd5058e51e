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

from raydc.search.goals import NO_GOALS, Goals
from raydc.search.point import Choose, Space, SpreadPoints, all_domains, derive_seed, make_point
from raydc.spec.space import Domain

# With fewer samples or results than these, points are spread evenly. Optuna has 10 random points
# for TPE, which is for more trials than most sweeps have: `python -m bench.sweep --samplers`.
_FEWEST_SAMPLES = {"tpe": 4, "gp": 4, "cmaes": 1, "nsga2": 1}
_FEWEST_RESULTS = {"tpe": 2, "gp": 4, "cmaes": 1, "nsga2": 1}
# Points of a generation of NSGA-II; Optuna has 50, for more trials than most sweeps have. The first
# generation is spread evenly.
_POPULATION = 16
# With fewer metrics nobody knows which one is bad, and a trial that has failed waits for them.
_FEWEST_METRICS = 4
# These keep their state in the trials of the study, also in those whose point is given.
_WITH_STATE = ("cmaes", "nsga2")


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
        self._num_known = len(known)
        self._num_told = 0
        for one in known:
            trial = optuna.trial.create_trial(
                params=dict(one.numbers),
                distributions={path: distribution(domains[path]) for path in one.numbers},
                value=self._worst if one.metric is None else one.metric,
            )
            self._study.add_trial(trial)
            self._num_told += 1

    def draw(self) -> Draw:
        """Draws the next point."""
        number = len(self._asked)
        is_early = number + self._num_known < _FEWEST_SAMPLES[self._name]
        if self._name == "nsga2":
            # Whatever is known: parents are taken from a whole generation.
            is_early = number < _POPULATION
        if is_early or self._num_told < _FEWEST_RESULTS[self._name]:
            return self._take(self._spread.choice(number))
        if self._name in _WITH_STATE:
            return self._take(None)
        import optuna

        # What a sampler notes in a trial that runs would not be there when the draw is replayed.
        scratch = self._ask()
        numbers = self._suggest(scratch).numbers
        self._study.tell(scratch, state=optuna.trial.TrialState.FAIL)
        return self.replay(numbers)

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
                cannot be built, which counts as the most costly.
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
            trial.set_constraint(name, costs[name] - most)
        worst = self._worst_finite() if self._goals.objectives else self._worst
        value = worst if metric is None else metric
        self._study.tell(trial, [value, *(costs[name] for name in self._goals.objectives)])
        self._num_told += 1

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
        return self._suggest(trial)

    def _ask(self) -> Any:
        number = len(self._asked)
        seed = derive_seed(self._seed, number)
        with warnings.catch_warnings():
            # Of options that Optuna calls experimental, and of infinite metrics.
            warnings.simplefilter("ignore")
            self._study.sampler = self._make_sampler(seed, number)
            return self._study.ask()

    def _make_sampler(self, seed: int, number: int) -> Any:
        import optuna

        if self._name != "tpe":
            return _make_sampler(self._name, seed)
        # Draws that see the same results would all be near the same best points. Those that are
        # made domain by domain lead further away: every other one, or with several objectives all,
        # which then begin with the random points of Optuna. Without a lag that would learn more
        # slowly. See docs/benchmarks.md, which has the figures.
        if self._has_lag and self._goals.objectives:
            return optuna.samplers.TPESampler(seed=seed)
        is_joint = not (self._has_lag and number % 2)
        return _make_tpe(seed, is_joint, self._has_lag)

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
    if domain.values is not None and not _is_ordered(domain):
        return trial.suggest_categorical(name, range(len(domain.values)))
    if domain.values is not None:
        return trial.suggest_int(name, 0, len(domain.values) - 1)
    suggest = trial.suggest_int if domain.is_whole else trial.suggest_float
    return suggest(name, *domain.bounds, log=domain.is_logarithmic)


def distribution(domain: Domain) -> Any:
    """The distribution that `_suggest` asks for."""
    from optuna import distributions

    if domain.values is not None and not _is_ordered(domain):
        return distributions.CategoricalDistribution(range(len(domain.values)))
    if domain.values is not None:
        return distributions.IntDistribution(0, len(domain.values) - 1)
    kind: Any = distributions.FloatDistribution
    if domain.is_whole:
        kind = distributions.IntDistribution
    return kind(*domain.bounds, log=domain.is_logarithmic)


def _is_ordered(domain: Domain) -> bool:
    """Whether a list has rising numbers: then values beside each other are alike."""
    values = domain.values or []
    numbers = [one for one in values if type(one) in (int, float)]
    return len(numbers) == len(values) and numbers == sorted({*numbers}) and len(values) > 1


def _make_tpe(seed: int, is_joint: bool, has_lag: bool) -> Any:
    from optuna import samplers

    return samplers.TPESampler(
        seed=seed,
        n_startup_trials=_FEWEST_RESULTS["tpe"],
        # The value of docs/benchmarks.md; 24 to 192 differ by less than a hundred runs show.
        n_ei_candidates=96,
        # Samples that still run differ by their seeds, and are no bad results.
        constant_liar=False,
        # Groups, because domains inside sections are not drawn for all points.
        multivariate=is_joint,
        group=is_joint,
        # With few results, draws hardly come near the ends of a range otherwise.
        consider_endpoints=has_lag,
    )


def _make_sampler(name: str, seed: int) -> Any:
    from optuna import samplers

    first = samplers.RandomSampler(seed=derive_seed(seed, "random"))
    if name == "gp":
        # Training is exact: the same point has the same metric.
        return samplers.GPSampler(
            seed=seed,
            n_startup_trials=_FEWEST_RESULTS[name],
            deterministic_objective=True,
            independent_sampler=first,
            warn_independent_sampling=False,
        )
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
    return samplers.CmaEsSampler(
        seed=seed,
        n_startup_trials=_FEWEST_RESULTS[name],
        independent_sampler=first,
        warn_independent_sampling=False,
    )
