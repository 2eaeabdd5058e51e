"""The files of a sweep, read for the report of its run. Runs in the driver; reads, never writes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raydc.errors import RaydcError, first_line
from raydc.report.axes import number_text
from raydc.search import DecisionFold, Method
from raydc.search.decision_log import DecisionLog
from raydc.search.goals import NO_GOALS, Goals
from raydc.search.point import Space, all_domains, locate
from raydc.spec.space import Domain
from raydc.spec.sweep_section import MOST_SAMPLES
from raydc.storage import Storage
from raydc.tracking import trials
from raydc.tracking.trials import STANDING_FILE

# A name of a domain inside a section: what is before, the place of the section, what is after.
_INNER = re.compile(r"(.*)\[(\d+)\](?:\.(.+))?")


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a sweep, for people.

    Attributes:
        number: Its number in the order of sampling, from 0.
        values: Searched values by spec path.
        numbers: What was drawn, by the name of each domain; empty if the space is not known.
        epochs: Epochs that it has done.
        metric: Its best metric; None without one.
        first_metric: Its metric at the first rung; None for the worst of all.
        state: `finished`, `pruned` or `failed`; `running` or `waiting` in a sweep that has not
            ended.
        why: Why it has not trained to its end; empty if it has.
        twin: Number of the trial with the same point that was run for both; None for the first.
        curve: Its metric by epoch; None where it is no number.
        costs: What its model costs, as far as the sweep has goals.
    """

    number: int
    values: dict[str, Any]
    numbers: dict[str, Any]
    epochs: int
    metric: float | None
    first_metric: float | None
    state: str
    why: str
    twin: int | None
    curve: dict[int, float | None]
    costs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepRecord:
    """The content of a sweep's files.

    Attributes:
        metric: Name of the metric.
        mode: Whether its largest or smallest value is the best: `max` or `min`.
        space: Domains by spec path; empty if they cannot be read.
        trials: All trials in the order of sampling.
        decisions: Records of the journal that are results, in their order.
        method: What has decided; None without a journal.
        damaged: What could not be read, each with the reason.
        goals: What the sweep wants beside a good metric.
        num_samples: Number of trials that it will have; None for one that has ended.
        time_s: Unix time of what is known of one that has not.
    """

    metric: str
    mode: str
    space: Space = field(default_factory=dict)
    trials: list[TrialRecord] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    method: Method | None = None
    damaged: tuple[str, ...] = ()
    goals: Goals = NO_GOALS
    num_samples: int | None = None
    time_s: float | None = None

    def ranked(self) -> list[TrialRecord]:
        """The trials, the best first; those without a metric come last."""
        sign = -1.0 if self.mode == "max" else 1.0

        def key(trial: TrialRecord) -> tuple[bool, float, int]:
            return trial.metric is None, sign * (trial.metric or 0.0), trial.number

        return sorted(self.trials, key=key)

    def titles(self) -> dict[str, str]:
        """Short titles of all domains by name: `depth (mlp)` for `model[0].depth`."""
        domains = all_domains(self.space)
        found = {name: _title(name, domains) for name in domains}
        shorts = [_short(title) for title in found.values()]
        return {
            name: short if shorts.count(short) == 1 else title
            for (name, title), short in zip(found.items(), shorts, strict=True)
        }


def read(
    folder: Storage,
    spec: Mapping[str, Any],
    begun: list[dict[str, Any]],
    standing: Mapping[str, Any] | None = None,
) -> SweepRecord:
    """Reads the files of a sweep; what is damaged is left out and named.

    Args:
        folder: Folder of the sweep, `runs/<name>/sweep`.
        spec: Resolved spec of the run, as plain values.
        begun: Its trials, from `trials.json` or from `standing`.
        standing: Content of its `standing.json`; None or empty if it has ended.
    """
    standing = standing or {}
    train, sweep = section(spec, "train"), section(spec, "sweep")
    metric, mode = str(train.get("metric", "loss")), str(train.get("mode", "min"))
    damaged: list[str] = []
    num_samples: int | None = standing.get("num_samples")
    # The decisions keep places for all of them.
    if standing and not (isinstance(num_samples, int) and 1 <= num_samples <= MOST_SAMPLES):
        damaged.append(f"sweep/{STANDING_FILE} (num_samples is {num_samples!r:.40})")
        num_samples = None
    lines: list[dict[str, Any]] = []
    fold: DecisionFold | None = None
    try:
        log = DecisionLog(folder / "journal")
        lines = log.records()
        fold = _fold(log, lines, num_samples or len(begun))
    except (RaydcError, OSError, ValueError, KeyError, TypeError) as error:
        damaged.append(f"sweep/journal ({first_line(error)})")
    # The journal has the order in which the space was drawn.
    given = section(lines[0] if lines else sweep, "space")
    try:
        space = {path: Domain.model_validate(one) for path, one in given.items()}
    except ValueError:
        space = {}
    return SweepRecord(
        metric,
        mode,
        space,
        [_trial(number, one, folder, metric, space, fold) for number, one in _numbered(begun)],
        [line for line in lines if line.get("kind") == "entry"],
        fold.method if fold else None,
        tuple(damaged),
        _goals(sweep),
        num_samples,
        _number(standing.get("time_s")),
    )


def _numbered(begun: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Trials by their numbers: all of them, unless each says its own."""
    return [
        (number if isinstance(number := one.get("number", place), int) else place, one)
        for place, one in enumerate(begun)
    ]


def section(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a spec as plain values; empty if there is none, or it is damaged."""
    found = spec.get(name)
    return found if isinstance(found, Mapping) else {}


def _goals(sweep: Mapping[str, Any]) -> Goals:
    """What a section `sweep` as plain values wants; one of an older raydc wants nothing."""
    objectives = sweep.get("objectives")
    named = (
        [one for one in objectives if isinstance(one, str)] if isinstance(objectives, list) else []
    )
    return Goals(tuple(named), _numbers(section(sweep, "constraints")))


def _fold(log: DecisionLog, lines: list[dict[str, Any]], num_trials: int) -> DecisionFold | None:
    """The decisions of a journal, made again from its results."""
    if not lines:
        return None
    given = lines[0]["method"]
    samples = {*log.past_samples(), num_trials}
    method = Method(
        given["type"],
        tuple(given["epochs"]),
        given["factor"],
        given["mode"],
        tuple(sorted(samples)),
    )
    fold = DecisionFold(0, {}, method)
    for result, metric in log.results().items():
        fold.add(result, metric)
    return fold


def _trial(
    number: int,
    one: dict[str, Any],
    folder: Storage,
    metric: str,
    space: Space,
    fold: DecisionFold | None,
) -> TrialRecord:
    values = one.get("values", {})
    values = values if isinstance(values, dict) else {}
    located = locate(space, values) if space else ""
    curve = {}
    if isinstance(key := one.get("key"), str):
        for record in trials.read_epochs(folder / "trials" / key):
            if isinstance(epoch := record.get("epoch"), int):
                curve[epoch] = _number(record.get(metric))
    state = str(one.get("state", ""))
    why = str(one.get("error") or "")
    if fold is not None and state == "pruned":
        # The journal of a sweep that has not ended is behind its decisions.
        why = fold.describe_stop(number) or str(one.get("why") or "")
    epochs, twin = one.get("epochs"), one.get("twin")
    return TrialRecord(
        number,
        values,
        located if isinstance(located, dict) else {},
        epochs if isinstance(epochs, int) else len(curve),
        _number(one.get("metric")),
        _first_metric(number, fold, curve) if fold else None,
        state,
        why,
        twin if isinstance(twin, int) else None,
        curve,
        _numbers(section(one, "costs")),
    )


def _first_metric(
    number: int, fold: DecisionFold, curve: Mapping[int, float | None]
) -> float | None:
    """The metric of a trial at the first rung, by the decisions or by its epochs."""
    if fold.has_result((number, 0)):
        return fold.first_metrics()[number]
    first = fold.method.epochs[0]
    there = [value for epoch, value in curve.items() if epoch <= first and value is not None]
    best = max if fold.method.mode == "max" else min
    return best(there) if there and max(curve) >= first else None


def _number(value: Any) -> float | None:
    """A finite number; None for any other value, which could not be ranked."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    found = {name: _number(value) for name, value in values.items()}
    return {name: number for name, number in found.items() if number is not None}


def choice_text(value: Any) -> str:
    """One value of a list, for an axis: a section by its name, for its fields have their own."""
    if isinstance(value, dict) and (name := value.get("name") or value.get("builder")):
        # Domains inside it are drawn on axes of their own.
        return str(name)
    if isinstance(value, dict):
        return ", ".join(f"{key}={choice_text(one)}" for key, one in value.items())
    return number_text(value) if isinstance(value, float) else str(value)


def _title(name: str, domains: Mapping[str, Domain]) -> str:
    match = _INNER.fullmatch(name)
    if match is None:
        return name
    outer, place, rest = match[1], int(match[2]), match[3] or ""
    values = domains[outer].values if outer in domains else None
    which = choice_text(values[place]) if values else place
    return f"{_title(outer, domains)}.{rest} ({which})" if rest else f"{outer} ({which})"


def _short(title: str) -> str:
    path, _, which = title.partition(" ")
    parts = path.split(".")
    # `name` alone says nothing.
    kept = ".".join(parts[-2:] if parts[-1] == "name" else parts[-1:])
    return f"{kept} {which}".strip()
