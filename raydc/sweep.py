"""The search over spec paths: Ray Tune samples and prunes, raydc's own loop trains.

A trial is one worker in one Tune actor, whatever `scaling` says: logical shards make it the model that more
workers would train, and many small trials use a cluster better than few wide ones. A trial's folder is named by
the hash of its resolved spec, so a finished trial is read, not run again, and a cut one goes on from its
checkpoint. The winner's bundle goes on to the registry as it is.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from raydc import engine, plan, train
from raydc import spec as specs
from raydc.data.prepared import Prepared, load
from raydc.errors import Say, TrainError
from raydc.loop import worker
from raydc.spec import ResolvedSpec
from raydc.spec.space import Domain
from raydc.storage import Storage, canonical_json, sha256
from raydc.tracking import events, lease


@dataclass(frozen=True)
class Trial:
    """One trial: the searched values, how far it came and its best validation metric."""

    key: str
    values: dict[str, Any]
    epochs: int
    metric: float | None
    state: str  # "finished", "pruned" or "failed"


@dataclass(frozen=True)
class SweepResult:
    """All trials in the order of sampling, the winner, and the folder of its bundle."""

    trials: tuple[Trial, ...]
    winner: Trial
    bundle_folder: Storage


def run(
    spec: ResolvedSpec, data: Prepared, run_folder: Storage, report: Say, resume: bool = False
) -> SweepResult:
    """Searches the space of `spec.sweep`.

    Args:
        spec: A resolved spec with a sweep.
        data: The prepared data set, the same for all trials.
        run_folder: The run's folder; everything of the sweep is below `sweep/`.
        report: Takes lines of progress.
        resume: Go on where an earlier sweep in this folder stopped.

    Raises:
        TrainError: No trial produced a model.
        RunError: Another process drives this run.
    """
    folder = run_folder / "sweep"
    with lease.hold(run_folder):
        results = _fit(spec, data, folder, report)
    trials = tuple(_trial_of(spec, folder, result.config, bool(result.error)) for result in results)
    folder.write_json("trials.json", [asdict(trial) for trial in trials])
    winner = best(trials, spec.train.mode)
    for line in table(trials, winner, spec.train.metric):
        report(f"sweep     {line}")
    bundle_folder = run_folder / "model"
    train.export(
        trial_spec(spec, winner.values), data, folder / "trials" / winner.key, bundle_folder
    )
    events.EventLog(run_folder, "events").write(
        kind="sweep_finished", trials=len(trials), winner=winner.key
    )
    return SweepResult(trials, winner, bundle_folder)


def best(trials: tuple[Trial, ...], mode: str) -> Trial:
    """The trial with the best metric; of equals the first sampled.

    Raises:
        TrainError: No trial has a metric.
    """
    measured = [trial for trial in trials if trial.metric is not None]
    if not measured:
        raise TrainError(
            f"none of the {len(trials)} trials finished an epoch",
            "Train one of them alone to see its error: raydc train with --set for each value.",
        )
    sign = 1.0 if mode == "max" else -1.0
    return max(measured, key=lambda trial: sign * (trial.metric or 0.0))


def table(trials: tuple[Trial, ...], winner: Trial, metric: str) -> list[str]:
    """All trials in the order of sampling, as aligned lines; the winner is marked."""
    paths = list(winner.values)
    cells = [["", "trial", *paths, "epochs", metric, "state"]]
    for number, trial in enumerate(trials):
        shown = "" if trial.metric is None else f"{trial.metric:.4f}"
        values = [_short(trial.values[path]) for path in paths]
        cells.append(
            [
                "*" if trial == winner else "",
                str(number),
                *values,
                str(trial.epochs),
                shown,
                trial.state,
            ]
        )
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def describe(values: dict[str, Any]) -> str:
    """The searched values on one line."""
    return ", ".join(f"{path}={_short(value)}" for path, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trial_spec(spec: ResolvedSpec, values: dict[str, Any]) -> ResolvedSpec:
    """The resolved spec of a trial: the sweep's values set, one worker, no sweep and no endpoint."""
    shards = spec.train.logical_shards
    alone = spec.model_copy(update={"sweep": None, "serve": None})
    return specs.with_values(
        alone, {**values, "scaling.num_workers": 0, "train.logical_shards": shards}
    )


def trial_key(spec: ResolvedSpec) -> str:
    """16 hex digits of the hash of a trial's resolved spec, without the place where it is stored."""
    value = specs.to_dict(spec)
    del value["storage"]
    return sha256(canonical_json(value))[:16]


def _fit(spec: ResolvedSpec, data: Prepared, folder: Storage, report: Say) -> Any:
    import ray

    os.environ.setdefault(
        "RAY_AIR_NEW_OUTPUT", "0"
    )  # Tune's tables are told apart by this, not by verbose.
    from ray import tune

    sweep = spec.sweep
    if sweep is None:
        raise TrainError("this spec has no sweep", "Add a section `sweep` with a `space`.")
    drawn = engine.sample(
        {path: _tune_domain(domain) for path, domain in sweep.space.items()},
        sweep.num_samples,
        spec.seed,
    )
    # A point that is drawn again would be the same model again.
    points = list({canonical_json(values): values for values in drawn}.values())
    needs = plan.worker_resources(spec, ray.cluster_resources())
    # Tune's own state is not what is resumed: a folder of its own for each driver, removed at the end.
    name = f"tune-{time.time_ns()}"
    trainable = tune.with_parameters(
        _run_trial, spec=specs.to_dict(spec), data_uri=data.folder.uri, folder_uri=folder.uri
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, needs),
        param_space={"values": tune.grid_search(points)},
        tune_config=tune.TuneConfig(
            metric="metric",
            mode=spec.train.mode,
            max_concurrent_trials=sweep.max_concurrent_trials,
            scheduler=_scheduler(spec),
            # The next trial takes over a warm process: importing torch costs more than a small trial.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=folder.uri,
            verbose=0,
            callbacks=[_progress(spec, folder, len(points), report)],
            failure_config=tune.FailureConfig(max_failures=spec.fault_tolerance.max_failures),
        ),
    )
    try:
        return tuner.fit()
    finally:
        with contextlib.suppress(OSError):
            (folder / name).delete()


def _tune_domain(domain: Domain) -> Any:
    from ray import tune

    if domain.choice is not None:
        return tune.choice(domain.choice)
    if domain.grid is not None:
        return tune.grid_search(domain.grid)
    if domain.uniform is not None:
        return tune.uniform(*domain.uniform)
    if domain.loguniform is not None:
        return tune.loguniform(*domain.loguniform)
    low, high = domain.randint or (0, 1)
    return tune.randint(int(low), int(high))


def _scheduler(spec: ResolvedSpec) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    sweep = spec.sweep
    if sweep is None or sweep.scheduler.name == "fifo":
        return FIFOScheduler()
    # By our own epoch: Tune's training_iteration starts again when a trial is restored.
    longest = spec.train.epochs or 1_000_000
    return ASHAScheduler(
        time_attr="epoch",
        max_t=max(longest, sweep.scheduler.grace_period),
        grace_period=sweep.scheduler.grace_period,
        reduction_factor=sweep.scheduler.reduction_factor,
    )


def _progress(spec: ResolvedSpec, folder: Storage, num_trials: int, report: Say) -> Any:
    from ray import tune

    class Progress(tune.Callback):  # type: ignore[misc]
        """One line for each trial that ends."""

        num_ended = 0

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            self.num_ended += 1
            ended = _trial_of(spec, folder, trial.config, failed=False)
            shown = "no metric" if ended.metric is None else f"{ended.metric:.4f}"
            what = f"{ended.epochs} epoch(s), best {spec.train.metric} {shown}: {describe(ended.values)}"
            report(f"sweep     {self.num_ended} of {num_trials} ended after {what}")

    return Progress()


def _run_trial(
    config: dict[str, Any], spec: dict[str, Any], data_uri: str, folder_uri: str
) -> None:
    """Runs inside a Tune actor."""
    from ray import tune

    values = config["values"]
    own = trial_spec(specs.resolve(specs.from_dict(spec)), values)
    folder = Storage(folder_uri) / "trials" / trial_key(own)
    for record in _epochs(folder):
        tune.report(_tune_record(own, record))
    if folder.exists("finished.json"):
        return

    def on_epoch(record: dict[str, Any]) -> bool:
        tune.report(_tune_record(own, record))
        return True

    data = load(Storage(data_uri))
    worker.fit(own, folder, data.folder, on_epoch=on_epoch)
    folder.write_json("finished.json", {"values": values})


def _epochs(folder: Storage) -> list[dict[str, Any]]:
    history = events.surviving(events.read(folder, "metrics"))
    return [record for record in history if record["kind"] == "epoch"]


def _tune_record(spec: ResolvedSpec, record: dict[str, Any]) -> dict[str, Any]:
    metric = record[spec.train.metric]
    if metric is None:  # Not a number, or beyond any: the trial has diverged.
        metric = -math.inf if spec.train.mode == "max" else math.inf
    return {"epoch": record["epoch"], "metric": metric}


def _trial_of(spec: ResolvedSpec, folder: Storage, config: dict[str, Any], failed: bool) -> Trial:
    values = {path: config["values"][path] for path in (spec.sweep.space if spec.sweep else ())}
    own = trial_spec(spec, values)
    key = trial_key(own)
    records = _epochs(folder / "trials" / key)
    metrics = [float(_tune_record(own, record)["metric"]) for record in records]
    pick = max if spec.train.mode == "max" else min
    finished = (folder / "trials" / key).exists("finished.json")
    state = "finished" if finished else "failed" if failed else "pruned"
    best_metric = pick(metrics) if metrics else math.inf
    return Trial(
        key, values, len(records), best_metric if math.isfinite(best_metric) else None, state
    )
