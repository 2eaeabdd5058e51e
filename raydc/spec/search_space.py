"""Checks of `sweep.space`: every path exists, may be searched, and takes the values of its domain.

Pure. A problem names the entry of the space, not the field that it would set.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from raydc.errors import Problem, SpecError, close_names
from raydc.spec.document import Path
from raydc.spec.known_fields import known_keys
from raydc.spec.sections import Spec, Sweep

# Sections that say where and how safely a model is trained, not what it becomes.
_NOT_SEARCHABLE = ("name", "storage", "sweep", "serve", "scaling", "fault_tolerance", "checkpoint")

# A grid is made as a whole, to shuffle it.
_LARGEST_GRID = 100_000
# Each pair of values takes a tenth of a millisecond.
_MOST_OF_A_PAIR = 16


def path_problems(value: Any, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields the paths of a search space that do not exist or cannot be searched.

    Args:
        value: The parsed file. It need not be a valid spec, so these problems are reported together
            with others.
        where: Maps a path to its place in the file, for the message.
    """
    sweep = value.get("sweep", {}) if isinstance(value, dict) else {}
    space = sweep.get("space", {}) if isinstance(sweep, dict) else {}
    for dotted in space if isinstance(space, dict) else ():
        if message := _path_problem(dotted, value):
            yield Problem(where(("sweep", "space", dotted)), f"sweep.space.{dotted}", message)


def domain_problems(
    spec: Spec, where: Callable[[Path], str], make_trial: Callable[[Spec, dict[str, Any]], Spec]
) -> Iterator[Problem]:
    """Yields the domains with a value that the spec does not allow at their path.

    That is each value alone, and each two of different paths together, of long lists some of them.

    Args:
        spec: A valid spec, with or without a sweep. All paths of its space exist.
        where: Maps a path to its place in the file, for the message.
        make_trial: Sets values by dotted path and validates the result.
    """
    if spec.sweep is None:
        return
    # A trial has no sweep of its own; with one, every trial would check the space again.
    alone = spec.model_copy(update={"sweep": None})
    # Limits are intervals: if both ends of a range are allowed, all between them are.
    examples = {path: domain.examples() for path, domain in spec.sweep.space.items()}

    def refused(values: dict[str, Any]) -> str | None:
        try:
            trial = make_trial(alone, values)
        except SpecError as error:
            # The path of the trial is not in the user's file; only the reason helps.
            return error.problems[0].message
        # Of the spec itself, `relations` says so.
        if trial.train.micro_batch_size == "auto" != spec.train.micro_batch_size:
            return "each trial would find a number of its own; give a number"
        return None

    def problem(path: str, message: str) -> Problem:
        return Problem(where(("sweep", "space", path)), f"sweep.space.{path}", message)

    bad = set()
    for path, values in examples.items():
        for value in values:
            if reason := refused({path: value}):
                bad.add(path)
                yield problem(path, f"{value!r} is not allowed there: {reason}")
    good = [path for path in examples if path not in bad]
    for first, second in itertools.combinations(good, 2):
        found = (
            (one, other, refused({first: one, second: other}))
            for one in _some(examples[first])
            for other in _some(examples[second])
        )
        if worst := next((pair for pair in found if pair[2]), None):
            one, other, reason = worst
            message = (
                f"{other!r} is not allowed with {first}: {one!r}: {reason}; search the section of "
                "both with choice, and give its values this domain where it is allowed"
            )
            yield problem(second, message)
    yield from _kind_problems(spec.sweep, problem)
    for field, message in _objective_problems(spec.sweep):
        yield Problem(where(("sweep", field)), f"sweep.{field}", message)


def _objective_problems(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Yields what several objectives cannot be combined with, each with its field."""
    if len({*sweep.objectives}) < len(sweep.objectives):
        yield "objectives", "names one cost twice"
    if sweep.objectives and sweep.scheduler.name != "fifo":
        yield (
            "objectives",
            f"scheduler: {sweep.scheduler.name} stops trials by train.metric alone, also those "
            "that cost little; set scheduler: fifo",
        )
    if sweep.objectives and sweep.search_alg == "cmaes":
        yield "objectives", "search_alg: cmaes has one objective; use nsga2, tpe or gp"
    if sweep.warm_start and (sweep.objectives or sweep.constraints):
        yield "warm_start", "earlier results have no costs; leave out objectives and constraints"


def _some(values: list[Any]) -> list[Any]:
    """Values that stand for a long list: evenly spaced, with the first and the last."""
    if len(values) <= _MOST_OF_A_PAIR:
        return values
    last = len(values) - 1
    return [values[place * last // (_MOST_OF_A_PAIR - 1)] for place in range(_MOST_OF_A_PAIR)]


def _kind_problems(sweep: Sweep, problem: Callable[[str, str], Problem]) -> Iterator[Problem]:
    """Yields the domains of which the search algorithm can make nothing."""
    size = math.prod(domain.num_points for domain in sweep.space.values())
    if sweep.search_alg == "grid" and size > _LARGEST_GRID:
        message = f"the grid has {size:,} points, more than {_LARGEST_GRID:,}; use quasi_random"
        yield problem(next(iter(sweep.space)), message)
    is_nested = any(sum(1 for _ in one.inner()) > 1 for one in sweep.space.values())
    for path, domain in sweep.space.items():
        whole = next((one for one in sweep.space if path.startswith(f"{one}.")), None)
        if whole is not None:
            message = (
                f"it is a part of {whole}, which is searched too; put this domain inside of it"
            )
            yield problem(path, message)
        kinds = {one.kind for one in domain.inner()}
        if sweep.search_alg == "grid":
            if ranges := sorted(kinds - {"choice", "grid"}):
                yield problem(
                    path, f"search_alg: grid needs values, and {ranges[0]} has none; use choice"
                )
        elif "grid" in kinds and (sweep.search_alg != "random" or domain.kind != "grid"):
            yield problem(path, f"search_alg: {sweep.search_alg} draws a choice; use choice here")
        elif "grid" in kinds and is_nested:
            message = "beside domains inside of sections a grid is not laid out; use choice here"
            yield problem(path, message)


def _path_problem(dotted: str, value: Any) -> str | None:
    parts = dotted.split(".")
    if parts[0] in _NOT_SEARCHABLE:
        return f"{parts[0]} does not change the model, so it cannot be searched"
    if parts[0] == "data" and parts[1:2] != ["augment"]:
        return "the data set is prepared once for all trials, so it cannot be searched"
    if dotted in ("train.logical_shards", "train.metric", "train.mode"):
        return "it is the same for all trials, so that they can be compared"
    # A builder's arguments are free: only the user's function knows them.
    if parts[0] == "model" and len(parts) > 2 and parts[1] == "arguments":
        return None
    known = known_keys(tuple(parts[:-1]), value)
    if parts[-1] in known:
        return None
    close = close_names(parts[-1], known)
    if close:
        return f"no such path in a spec; did you mean {'.'.join([*parts[:-1], close[0]])}?"
    return f"no such path in a spec; known here: {', '.join(known)}"
