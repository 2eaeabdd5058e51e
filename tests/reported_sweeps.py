"""Finished sweeps whose learning curves are made up, without Ray, for tests of what shows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from reported_runs import HOSTILE
from training import training_spec

from raydc import spec as specs
from raydc.elastic.trial_draws import make_draws
from raydc.elastic.trial_ends import TrialEnds
from raydc.elastic.trial_queue import TrialQueue
from raydc.search.draws import Draws
from raydc.search.goals import Goals, goals_of
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events, trials
from raydc.tracking.trials import Trial

SPACE: dict[str, Any] = {
    "train.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "train.optimizer": {"choice": ["adamw", {"name": "sgd", "momentum": {"uniform": [0.5, 0.95]}}]},
    "model": {
        "choice": [
            {"name": "mlp", "depth": {"choice": [1, 2, 3]}, "width": {"lograndint": [16, 257]}},
            {"name": "linear"},
            {"builder": "hidden:network", "arguments": {"kind": HOSTILE}},
        ]
    },
}


def accuracy(values: dict[str, Any], epoch: int) -> float | None:
    """Best at a rate of 0.01 and a width of 64; a very high rate diverges."""
    rate, model = values["train.learning_rate"], values["model"]
    if rate > 0.05:
        return None
    off = abs(math.log10(rate) + 2) + abs(math.log2(model.get("width", 512) / 64)) / 6
    return round((0.95 - 0.2 * off) * (1 - 0.5**epoch), 4)


@dataclass(frozen=True)
class BegunSweep:
    """A sweep in this process; its folder is `sweep/` in `run`."""

    run: Storage
    folder: Storage
    spec: ResolvedSpec
    draws: Draws
    ends: TrialEnds
    queue: TrialQueue


def begin_sweep(
    folder: Path,
    name: str = "searched",
    tell: Callable[[str], None] = lambda line: None,
    **sweep: Any,
) -> BegunSweep:
    """Begins a sweep of which nothing is trained. The arguments are those of `finish_sweep`."""
    section = {"space": SPACE, "num_samples": 24, "search_alg": "quasi_random", **sweep}
    given = training_spec(
        str(folder / "store"),
        name=name,
        sweep=section,
        model={"name": "mlp"},
        train={"epochs": 9, "metric": "accuracy"},
    )
    run = Storage(given.storage) / "runs" / name
    run.write_bytes("resolved.yaml", yaml.safe_dump(specs.to_dict(given)).encode())
    draws = make_draws(given, specs.to_dict(given), run / "sweep", tell)
    ends = TrialEnds(given, run / "sweep", draws, tell)
    return BegunSweep(
        run, run / "sweep", given, draws, ends, TrialQueue(given, run / "sweep", draws, ends)
    )


def finish_sweep(
    folder: Path,
    name: str = "searched",
    score: Callable[[dict[str, Any], int], float | None] = accuracy,
    tell: Callable[[str], None] = lambda line: None,
    **sweep: Any,
) -> tuple[Storage, ResolvedSpec]:
    """Runs all trials in this process, one part after the other; returns the run folder.

    Args:
        folder: Gets the storage `store`.
        name: Name of the run.
        score: The metric of a trial by its values and an epoch; None for one that is no number.
        tell: Takes what a terminal shows.
        **sweep: Fields of the section that differ.
    """
    begun = begin_sweep(folder, name, tell, **sweep)
    run, given, queue, ends = begun.run, begun.spec, begun.queue, begun.ends
    goals = goals_of(given.sweep)
    while (segment := queue.next_segment()) is not None:
        train_part(given, run / "sweep" / "trials" / segment["key"], segment, score)
        queue.end(segment)
    queue.raise_failed()
    run.write_json("sweep/trials.json", [with_costs(one, goals) for one in ends.all()])
    return run, given


def with_costs(trial: Trial, goals: Goals) -> dict[str, Any]:
    """A record of `trials.json`, with made-up costs of its network."""
    model = trial.values["model"]
    size = 70.0 * model.get("width", 10) * model.get("depth", 1)
    made_up = {"parameters": size, "latency_ms": 0.1 + size / 20_000}
    return asdict(replace(trial, costs={name: made_up[name] for name in goals.costs}))


def train_part(
    given: ResolvedSpec,
    place: Storage,
    segment: dict[str, Any],
    score: Callable[[dict[str, Any], int], float | None] = accuracy,
) -> None:
    """Writes what a trial records up to a rung, or to its end.

    Args:
        given: The resolved spec of the sweep.
        place: Folder of the trial.
        segment: As `TrialQueue.next_segment` gives it.
        score: As of `finish_sweep`.
    """
    values, last = segment["all_values"], segment["epochs"] or given.train.epochs or 1
    for epoch in range(len(trials.read_epochs(place)) + 1, last + 1):
        record = {"step": 7 * epoch, "epoch": epoch, "accuracy": score(values, epoch)}
        events.EventLog(place, "metrics").write(kind="epoch", split="validation", **record)
    if segment["epochs"] is None:
        own = trials.trial_spec(given, values)
        trials.mark_ended(place, own, values, trials.FINISHED_FILE)
