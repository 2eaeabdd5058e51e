"""The points of a sweep's trials, by its search algorithm. Runs in the driver.

Random points are those of Ray Tune, as in the journals of all earlier versions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from raydc import engine
from raydc import spec as specs
from raydc.checkpoint import run_files
from raydc.elastic import earlier_studies
from raydc.errors import Say, TrainError, UsageError
from raydc.search.decision_log import DecisionLog
from raydc.search.draws import Draws, LearnedDraws
from raydc.search.learned_points import LearnedPoints, Observation
from raydc.search.point import (
    SpreadPoints,
    grid_points,
    has_inner_domains,
    locate,
    make_point,
    random_point,
)
from raydc.spec import ResolvedSpec
from raydc.spec.space import Domain
from raydc.spec.sweep_section import LEARNING, Sweep
from raydc.storage import Storage
from raydc.tracking import trials


def make_draws(spec: ResolvedSpec, recorded: dict[str, Any], folder: Storage, report: Say) -> Draws:
    """Draws the trials of a sweep, or continues to draw them.

    Says how many of them are drawn again and run once.

    Args:
        spec: The resolved spec of the sweep.
        recorded: The same as the run has recorded it, which names the trials.
        folder: Folder of the sweep; draws that depend on results are in `draws` of it.
        report: Shows a line of progress.

    Raises:
        TrainError: The spec has no sweep.
        RunError: Trials were begun that are none of these.
        UsageError: Results of `sweep.warm_start` cannot be read.
    """
    sweep = spec.sweep
    if sweep is None:
        raise TrainError("this spec has no sweep", "Add a section `sweep` with a `space`.")

    # Points are drawn in the order of the space, and a resume may have written it in another one.
    space = {path: sweep.space[path] for path in recorded["sweep"]["space"]}
    sweep = sweep.model_copy(update={"space": space})
    spec = spec.model_copy(update={"sweep": sweep})

    def make_key(values: dict[str, Any]) -> str:
        return trials.trial_key(recorded, values)

    draws: Draws
    if sweep.search_alg in LEARNING:
        draws = LearnedDraws(
            folder / "draws",
            sweep.search_alg,
            sweep.lag,
            sweep.space,
            spec.seed,
            spec.train.mode,
            sweep.num_samples,
            make_key,
            lambda: read_results(spec, report),
        )
    else:
        drawn = known_points(spec)
        # A trial that is drawn twice would train the same model twice, in one folder. Different
        # values may mean the same, such as a name and the same name with its defaults.
        points: dict[str, dict[str, Any]] = {}
        for values in drawn:
            points.setdefault(make_key(values), values)
        _say_numbers(sweep, len(drawn), len(points), report)
        draws = Draws([{"key": key, "all_values": one} for key, one in points.items()])
    trials.refuse_unknown(folder, {one["key"] for one in draws.trials})
    return draws


def read_results(spec: ResolvedSpec, report: Say) -> list[Observation]:
    """Reads the results of `sweep.warm_start`, and says how many of them fit the space.

    Args:
        spec: The resolved spec of a sweep.
        report: Shows a line of progress.

    Raises:
        UsageError: A run or a study does not exist, cannot be read, or has another metric.
    """
    assert spec.sweep is not None
    found = []
    for name in spec.sweep.warm_start:
        if earlier_studies.is_study(name):
            results = earlier_studies.read_study(name, spec.train.mode)
        else:
            results = _read_sweep(spec, name)
        located = [(locate(spec.sweep.space, point), metric) for point, metric in results]
        fitting = [
            Observation(numbers, metric) for numbers, metric in located if isinstance(numbers, dict)
        ]
        why = next((reason for reason, _ in located if isinstance(reason, str)), "")
        others = f"; {len(located) - len(fitting)} do not fit the space, the first: {why}"
        report(
            f"sweep     begins with {len(fitting)} of {len(located)} results of {name}"
            f"{others if why else ''}"
        )
        found += fitting
    return found


def _read_sweep(spec: ResolvedSpec, name: str) -> list[tuple[dict[str, Any], float | None]]:
    """Points and first results of an earlier sweep, in the order of its journal."""
    folder = Storage(spec.storage) / "runs" / name
    recorded = run_files.read_resolved(folder)
    if recorded is None or not recorded.get("sweep"):
        raise UsageError(
            f"sweep.warm_start: {name} is no run with a sweep in {spec.storage}/runs",
            "`raydc runs` lists them; a study of Optuna is a URL or a path that ends in .log.",
        )
    earlier = specs.resolve(specs.from_dict(recorded))
    then, now = earlier.train, spec.train
    if (then.metric, then.mode) != (now.metric, now.mode):
        raise UsageError(
            f"sweep.warm_start: {name} compares {then.metric} ({then.mode}), and this sweep "
            f"{now.metric} ({now.mode})",
            "Set train.metric and train.mode as there, or leave it out.",
        )
    metrics = DecisionLog(folder / "sweep" / "journal").results()
    if not metrics:
        return []
    # Nothing is drawn: all samples of a journal are there.
    draws = make_draws(earlier, recorded, folder / "sweep", lambda _: None)
    return [
        (trial["all_values"], metrics[number, 0])
        for number, trial in enumerate(draws.trials)
        if (number, 0) in metrics
    ]


def known_points(spec: ResolvedSpec, known: Sequence[Observation] = ()) -> list[dict[str, Any]]:
    """The points that depend on no result of the sweep, in the order of sampling.

    Args:
        spec: The resolved spec of a sweep. If its algorithm learns, these are the points before
            the first result.
        known: Results of other sweeps, for an algorithm that learns.
    """
    assert spec.sweep is not None
    sweep, seed = spec.sweep, spec.seed
    space, number = sweep.space, sweep.num_samples
    if sweep.search_alg in LEARNING:
        points = LearnedPoints(sweep.search_alg, space, seed, spec.train.mode, known)
        return [points.draw().point for _ in range(min(number, sweep.lag))]
    if sweep.search_alg == "grid":
        return grid_points(space, seed)[:number]
    if sweep.search_alg == "quasi_random":
        spread = SpreadPoints(space, seed)
        return [make_point(space, spread.choice(sample)) for sample in range(number)]
    if has_inner_domains(space):
        return [random_point(space, seed, sample) for sample in range(number)]
    domains = {path: _tune_domain(domain) for path, domain in space.items()}
    return engine.sample(domains, number, seed)


def _say_numbers(sweep: Sweep, num_drawn: int, num_points: int, report: Say) -> None:
    if sweep.search_alg == "grid":
        size = math.prod(domain.num_points for domain in sweep.space.values())
        if sweep.num_samples > size:
            report(
                f"sweep     the grid has {size} points, fewer than the {sweep.num_samples} of "
                "sweep.num_samples"
            )
        elif sweep.num_samples < size:
            report(
                f"sweep     {sweep.num_samples} of the {size} points of the grid; "
                "sweep.num_samples says how many"
            )
    if again := num_drawn - num_points:
        report(
            f"sweep     {num_drawn} samples are {num_points} different trials; {again} that were "
            "drawn again are not run again"
        )


@contextlib.contextmanager
def single_thread(draws: Draws) -> Iterator[None]:
    """Computes draws on one thread in the block: more would add in another order.

    Args:
        draws: What is drawn. Only Gaussian processes are computed with torch.
    """
    if draws.search_alg != "gp":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tune_domain(domain: Domain) -> Any:
    from ray import tune

    if domain.values is not None:
        return (tune.choice if domain.grid is None else tune.grid_search)(domain.values)
    low, high = domain.bounds
    if domain.is_whole:
        draw = tune.lograndint if domain.is_logarithmic else tune.randint
        # Its upper end is exclusive.
        return draw(low, high + 1)
    return (tune.loguniform if domain.is_logarithmic else tune.uniform)(low, high)
