"""The trials of a sweep: their specs, keys and records, the winner, and the table of all.

Pure but for reading records; used by the driver of a sweep and by its trials.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydc import spec as specs
from raydc.errors import RunError, TrainError
from raydc.spec import ResolvedSpec
from raydc.storage import OWN_HASH, Storage, broken_seal, canonical_json, seal, sha256
from raydc.tracking import events

# One of them says how a trial has ended: trained to its end, not among those that go on, or failed
# in a way that another attempt meets again. A trial without any is continued.
FINISHED_FILE = "finished.json"
PRUNED_FILE = "pruned.json"
FAILED_FILE = "failed.json"
# How a sweep stands that has not ended; its `trials.json` comes with its end.
STANDING_FILE = "standing.json"
# How the error of a trial begins that was above a limit of `sweep.constraints`.
INFEASIBLE = "infeasible"
_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        key: Name of its folder, see `trial_key`.
        values: Searched values by spec path.
        epochs: Epochs that it has done.
        metric: Its best validation metric; None if it has none, or only infinite ones.
        state: "finished", "pruned" or "failed".
        error: First line of the error of a trial that has failed, as far as it is known.
        twin: Number of the first trial with the same point, which was run for both; None if this
            is the first.
        costs: What its model costs, as far as the sweep has goals.
    """

    key: str
    values: dict[str, Any]
    epochs: int
    metric: float | None
    state: str
    error: str | None = None
    twin: int | None = None
    costs: dict[str, float] = field(default_factory=dict)


def trial_spec(spec: ResolvedSpec, values: dict[str, Any]) -> ResolvedSpec:
    """The resolved spec of a trial: the searched values, one process, no sweep and no endpoint."""
    # Without workers their default would be one shard, and the trial would train a different model.
    shards = spec.train.logical_shards
    alone = spec.model_copy(update={"sweep": None, "serve": None})
    return specs.with_values(
        alone, {**values, "scaling.num_workers": 0, "train.logical_shards": shards}
    )


def trial_key(recorded: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """16 hex digits that name a trial: the hash of its resolved spec.

    Whatever raydc continues a run, its trials keep their names: what a trial does not set counts
    as the run has recorded it, and fields that are newer than the run do not count.

    Args:
        recorded: The resolved spec of the sweep as the run has recorded it, as plain values.
        values: Searched values of the trial by spec path.
    """
    now = specs.resolve(specs.from_dict(dict(recorded)))
    own = specs.to_dict(trial_spec(now, dict(values)))
    value = _as_recorded(own, specs.to_dict(now), recorded)
    # A sweep that was moved to another storage keeps its trials.
    del value["storage"]
    return sha256(canonical_json(value))[:16]


def _as_recorded(own: Any, now: Any, recorded: Any) -> Any:
    """A part of a trial's spec in the words of the raydc that recorded the spec of the sweep."""
    if own == now:
        return recorded
    if not (isinstance(own, dict) and isinstance(now, dict) and isinstance(recorded, Mapping)):
        return own
    return {
        key: _as_recorded(value, now.get(key), recorded.get(key))
        for key, value in own.items()
        if key in recorded or value != now.get(key)
    }


def refuse_unknown(folder: Storage, keys: Collection[str]) -> None:
    """Refuses to continue a sweep whose trials would all begin again.

    Args:
        folder: `sweep/` in the run folder, with `trials/<key>` for each trial that was begun.
        keys: Keys of all trials of the sweep.

    Raises:
        RunError: There is a trial with another key.
    """
    begun = filter(_KEY.fullmatch, (folder / "trials").names())
    others = [name for name in begun if name not in keys]
    if others:
        raise RunError(
            f"{len(others)} trials in {folder.uri}/trials are none of the {len(keys)} of this "
            f"sweep, such as {others[0]}: another version of raydc or Ray has begun them",
            "Resume with that version, or pass --new to begin all trials again.",
        )


def read_trial(
    spec: ResolvedSpec,
    folder: Storage,
    key: str,
    all_values: dict[str, Any],
    error: str | None = None,
) -> Trial:
    """Reads how far a trial got.

    Args:
        spec: The resolved spec of the sweep.
        folder: `sweep/` in the run folder; the trial is in `trials/<key>` of it.
        key: Key of the trial.
        all_values: Values of the trial by spec path, in any order.
        error: The error with which Tune has given it up, in a line; None without one.
    """
    # In the order of the spec, which is the order of the table's columns.
    values = {path: all_values[path] for path in (spec.sweep.space if spec.sweep else ())}
    own = trial_spec(spec, values)
    place = folder / "trials" / key
    records = read_epochs(place)
    best = _sealed_metric(place)
    if best is None:
        best = _best_metric(own, records)
    state = "finished" if place.exists(FINISHED_FILE) else "pruned"
    if has_ended(place):
        error = None
    elif is_failed(place) or error is not None:
        state, error = "failed", _error_line(place) or error
    metric = best if math.isfinite(best) else None
    return Trial(key, values, len(records), metric, state, error)


def mark_ended(folder: Storage, own: ResolvedSpec, values: dict[str, Any], name: str) -> None:
    """Records that a trial trains no more, with its best metric.

    Args:
        folder: Folder of the trial, which gets the record.
        own: The resolved spec of the trial.
        values: Searched values by spec path.
        name: FINISHED_FILE or PRUNED_FILE.
    """
    best = _best_metric(own, read_epochs(folder))
    metric = best if math.isfinite(best) else None
    folder.write_json(name, seal({"values": values, "metric": metric}))


def mark_failed(folder: Storage, values: dict[str, Any], error: str, page: str) -> None:
    """Records that a trial has failed, and would fail again.

    Args:
        folder: Folder of the trial, which gets the record.
        values: Searched values by spec path.
        error: The error in a line.
        page: All that is known about it, on several lines.
    """
    record = {"values": values, "error": error, "page": page.splitlines()}
    folder.write_json(FAILED_FILE, record)


def has_ended(folder: Storage) -> bool:
    """Whether a trial trains no more, by its folder: it has finished or was pruned."""
    return folder.exists(FINISHED_FILE) or folder.exists(PRUNED_FILE)


def is_failed(folder: Storage) -> bool:
    """Whether a trial has failed in a way that another attempt meets again, by its folder."""
    return folder.exists(FAILED_FILE) and not has_ended(folder)


def rung_metrics(
    own: ResolvedSpec, folder: Storage, epochs: Sequence[int]
) -> dict[int, float | None]:
    """What a sweep compares of one trial, as far as the trial has recorded it.

    Args:
        own: The resolved spec of the trial.
        folder: Folder of the trial.
        epochs: Epochs after which trials are compared, ascending; the last ones are its own end,
            whenever that is.

    Returns:
        By the index of `epochs` the best metric up to there, for a trial that has ended before that
        of all its epochs. None where it has none, or has failed before.
    """
    records = read_epochs(folder)
    is_over, has_failed = folder.exists(FINISHED_FILE), is_failed(folder)
    found: dict[int, float | None] = {}
    for index, limit in enumerate(epochs):
        is_last = index == len(epochs) - 1
        has_reached = not is_last and any(record["epoch"] >= limit for record in records)
        if is_over or has_reached:
            there = [record for record in records if is_last or record["epoch"] <= limit]
            best = _best_metric(own, there)
            found[index] = best if math.isfinite(best) else None
        elif has_failed:
            found[index] = None
    return found


def _error_line(folder: Storage) -> str | None:
    try:
        return str(folder.read_json(FAILED_FILE)["error"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # Tune knows it, or the record is damaged.


def _best_metric(own: ResolvedSpec, records: list[dict[str, Any]]) -> float:
    """The best metric of some epochs; infinite without any."""
    metrics = [tune_metric(own, record) for record in records]
    return (max if own.train.mode == "max" else min)(metrics, default=math.inf)


def _sealed_metric(folder: Storage) -> float | None:
    """The metric of a trial that has ended, if its record verifies; it decides the winner.

    Lines of metrics have no hash: a changed digit there must not choose a different model.
    """
    for name in (FINISHED_FILE, PRUNED_FILE):
        try:
            record = folder.read_json(name)
        except (FileNotFoundError, ValueError):
            continue
        if not isinstance(record, dict) or OWN_HASH not in record or broken_seal(record):
            continue  # Damaged, or of an older raydc.
        return math.inf if record["metric"] is None else float(record["metric"])
    return None


def read_epochs(folder: Storage) -> list[dict[str, Any]]:
    """Records of the epochs of a trial, by its folder, in order."""
    history = events.surviving(events.read(folder, "metrics"))
    return [record for record in history if record["kind"] == "epoch"]


def tune_metric(spec: ResolvedSpec, record: dict[str, Any]) -> float:
    """The metric of an epoch as Tune compares it: a trial that has diverged is the worst of all."""
    metric = record.get(spec.train.metric)
    # JSON has no NaN and no infinity; such metrics are recorded as None.
    if metric is None:
        return -math.inf if spec.train.mode == "max" else math.inf
    return float(metric)


def pick_winner(trials: Sequence[Trial], mode: str) -> Trial:
    """The trial with the best metric; among equals the one that was sampled first.

    Args:
        trials: Trials in the order of sampling.
        mode: Whether the largest or the smallest metric is the best: "max" or "min".

    Raises:
        TrainError: No trial has a metric; the message has the error of one.
    """
    if (best := pick_best(trials, mode)) is not None:
        return best
    errors = [f"; the first error: {trial.error}" for trial in trials if trial.error][:1]
    if trials and all((trial.error or "").startswith(INFEASIBLE) for trial in trials):
        raise TrainError(
            f"none of the {len(trials)} trials is within sweep.constraints{''.join(errors)}",
            "Raise the limits and pass --new, or search smaller networks.",
        )
    raise TrainError(
        f"none of the {len(trials)} trials finished an epoch{''.join(errors)}",
        "Train one of them alone to see its error: raydc train with --set for each value.",
    )


def pick_best(trials: Sequence[Trial], mode: str) -> Trial | None:
    """As `pick_winner`; None if no trial has a metric."""
    measured = [trial for trial in trials if trial.metric is not None]
    sign = 1.0 if mode == "max" else -1.0
    # max() keeps the first of equals.
    return max(measured, key=lambda trial: sign * (trial.metric or 0.0), default=None)


def format_values(values: dict[str, Any]) -> str:
    """Formats searched values on one line."""
    return ", ".join(f"{path}={shorten(value)}" for path, value in values.items())


def shorten(value: Any) -> str:
    """Formats a searched value in few characters."""
    if isinstance(value, dict):
        # A section: `sgd(momentum=0.9)`.
        rest = ", ".join(f"{key}={shorten(one)}" for key, one in value.items() if key != "name")
        name = shorten(value.get("name", "" if rest else str(value)))
        return f"{name}({rest})" if rest else name
    if isinstance(value, float):
        return f"{value:.4g}"
    # A line break would end the line of a table: as in Python's own spelling of a text.
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(value))
