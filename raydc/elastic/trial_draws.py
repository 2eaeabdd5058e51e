"""The points of a sweep's trials, by its search algorithm. Runs in the driver.

Random points are those of Ray Tune, as in the journals of all earlier versions.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raydc import engine
from raydc import spec as specs
from raydc.checkpoint import run_files
from raydc.elastic import earlier_studies
from raydc.errors import RaydcError, Say, TrainError, UsageError, first_line
from raydc.search.decision_log import DecisionLog
from raydc.search.draws import Draws, LearnedDraws
from raydc.search.goals import Goals, goals_of
from raydc.search.learned_points import Draw, LearnedPoints, Observation
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
from raydc.storage import Storage, canonical_json
from raydc.tracking import trials


def make_draws(
    spec: ResolvedSpec,
    recorded: dict[str, Any],
    folder: Storage,
    report: Say,
    measure: Callable[[dict[str, Any]], dict[str, float]] | None = None,
) -> Draws:
    """Draws the trials of a sweep, or continues to draw them.

    Says how many of them are drawn again and run once.

    Args:
        spec: The resolved spec of the sweep.
        recorded: The same as the run has recorded it, which names the trials.
        folder: Folder of the sweep; draws that depend on results are in `draws` of it.
        report: Shows a line of progress.
        measure: What a point costs, by its values, if the sweep has goals.

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
            lambda known: first_draws(spec, known),
            goals_of(sweep),
            measure,
        )
    else:
        drawn = known_points(spec)
        points = _distinct(drawn, recorded)
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
            results = _read_run(spec, name)
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


def _read_run(spec: ResolvedSpec, name: str) -> list[tuple[dict[str, Any], float | None]]:
    """Points and first results of an earlier sweep, in the order of sampling; writes nothing."""
    folder = Storage(spec.storage) / "runs" / name
    recorded = run_files.read_resolved(folder)
    if recorded is None or not recorded.get("sweep"):
        raise UsageError(
            f"sweep.warm_start: {name} is no run with a sweep in {spec.storage}/runs",
            "`raydc runs` lists them; a study of Optuna is a URL or a path that ends in .log.",
        )
    try:
        earlier = specs.resolve(specs.from_dict(recorded))
        metrics = DecisionLog(folder / "sweep" / "journal").results()
        points = _points_of(earlier, recorded, folder / "sweep") if metrics else []
    # Its problems would read as those of the spec that names it.
    except (RaydcError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"sweep.warm_start: run {name} cannot be read: {first_line(error)}",
            "Leave it out, or restore its files.",
        ) from error
    then, now = earlier.train, spec.train
    if (then.metric, then.mode) != (now.metric, now.mode):
        raise UsageError(
            f"sweep.warm_start: {name} compares {then.metric} ({then.mode}), and this sweep "
            f"{now.metric} ({now.mode})",
            "Set train.metric and train.mode as there, or leave it out.",
        )
    if (last := max((number for number, _ in metrics), default=-1)) >= len(points):
        raise UsageError(
            f"sweep.warm_start: run {name} has a result of trial {last}, and {len(points)} points",
            f"Restore {folder.uri}/sweep/draws and resolved.yaml of that run, or leave it out.",
        )
    return [
        (point, metrics[number, 0]) for number, point in enumerate(points) if (number, 0) in metrics
    ]


def _points_of(
    earlier: ResolvedSpec, recorded: dict[str, Any], folder: Storage
) -> list[dict[str, Any]]:
    """The points of the trials of a sweep that has begun."""
    assert earlier.sweep is not None
    if earlier.sweep.search_alg in LEARNING:
        lines = DecisionLog(folder / "draws").records()
        return [line["point"] for line in lines if line.get("kind") == "sample"]
    return [*_distinct(known_points(earlier), recorded).values()]


def _distinct(
    points: Sequence[dict[str, Any]], recorded: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Points by the keys of their trials: a trial that is drawn twice has one model and folder."""
    found: dict[str, dict[str, Any]] = {}
    for values in points:
        # Different values may mean the same, such as a name and the same name with its defaults.
        found.setdefault(trials.trial_key(recorded, values), values)
    return found


def first_draws(spec: ResolvedSpec, known: Sequence[Observation]) -> Sequence[Draw]:
    """The draws of a sweep that learns before its first result; the last ones are kept.

    They are asked for twice, by the checks before a run begins and by the sweep itself, and a draw
    of a Gaussian process takes a second.

    Args:
        spec: The resolved spec of the sweep.
        known: Results of other sweeps.
    """
    sweep = spec.sweep
    assert sweep is not None
    given = {
        "name": sweep.search_alg,
        # A list, because the order of the space is that of the draws.
        "space": [[path, one.model_dump(exclude_none=True)] for path, one in sweep.space.items()],
        "seed": spec.seed,
        "mode": spec.train.mode,
        "known": [[dict(one.numbers), one.metric] for one in known],
        "goals": goals_of(sweep).to_dict(),
        "lag": sweep.lag,
        "count": min(sweep.num_samples, sweep.lag),
    }
    return _draw_first(canonical_json(given))


@functools.lru_cache(maxsize=1)
def _draw_first(content: bytes) -> tuple[Draw, ...]:
    fields = json.loads(content)
    space = {path: Domain.model_validate(one) for path, one in fields["space"]}
    known = [Observation(*one) for one in fields["known"]]
    with single_thread(fields["name"]):
        name, seed, mode = fields["name"], fields["seed"], fields["mode"]
        given = fields["goals"]
        goals = Goals(tuple(given.get("objectives", ())), given.get("constraints", {}))
        points = LearnedPoints(name, space, seed, mode, known, goals, fields["lag"])
        return tuple(points.draw() for _ in range(fields["count"]))


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
        return [draw.point for draw in first_draws(spec, known)]
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
def single_thread(search_alg: str | None) -> Iterator[None]:
    """Computes draws on one thread in the block: more would add in another order.

    Args:
        search_alg: What draws. Only Gaussian processes, `gp`, are computed with torch.
    """
    if search_alg != "gp":
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
