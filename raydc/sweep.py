"""The search over spec paths: Ray Tune samples and prunes, raydc's own loop trains.

Runs in the driver; `_run_trial` in Tune's actors. A trial is one worker in one Tune actor, whatever
`scaling` says: logical shards make it the model that more workers would train, and many small
trials use a cluster better than few wide ones. A trial's folder is named by its
resolved spec, so a finished trial is read instead of trained, and an interrupted one continues from
its checkpoint. The winner's bundle goes to the registry as it is.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from raydc import engine, plan, train
from raydc import spec as specs
from raydc.checkpoint import run_files
from raydc.data.prepared import Prepared, load
from raydc.elastic import mailbox, worker_failure
from raydc.engine import interruption
from raydc.errors import Say, TrainError
from raydc.loop import planned_stop, worker
from raydc.loop.hooks import Hooks
from raydc.loop.planned_stop import PlannedStopError
from raydc.loop.state_proof import prove_state
from raydc.spec import ResolvedSpec
from raydc.spec.space import Domain
from raydc.storage import Storage, canonical_json
from raydc.tracking import events, lease, trials
from raydc.tracking.trials import Trial

# ASHA needs a largest epoch; a run that is limited by steps has none.
_MANY_EPOCHS = 1_000_000


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        trials: All trials in the order of sampling.
        winner: Trial with the best validation metric.
        bundle_folder: Bundle of the winner's model.
    """

    trials: tuple[Trial, ...]
    winner: Trial
    bundle_folder: Storage


def run(spec: ResolvedSpec, data: Prepared, run_folder: Storage, report: Say) -> SweepResult:
    """Searches the space of `spec.sweep`, and continues a sweep that stopped in this folder.

    Args:
        spec: A resolved spec with a sweep.
        data: The prepared data set, the same for all trials.
        run_folder: Folder of the run; everything of the sweep is below `sweep/`.
        report: Shows a line of progress.

    Raises:
        TrainError: No trial produced a model.
        RunError: Another process drives this run, or another version of raydc has begun trials
            that this one does not know.
    """
    folder = run_folder / "sweep"
    with interruption.resumable(), lease.hold(run_folder):
        recorded = run_files.read_resolved(run_folder) or specs.to_dict(spec)
        results = _fit(spec, data, folder, _draw(spec, recorded, folder), report)
    ended = tuple(
        trials.read_trial(spec, folder, **result.config["trial"], has_failed=bool(result.error))
        for result in results
    )
    folder.write_json("trials.json", [asdict(trial) for trial in ended])
    winner = trials.pick_winner(ended, spec.train.mode)
    for line in trials.format_table(ended, winner, spec.train.metric):
        report(f"sweep     {line}")
    bundle_folder = run_folder / "model"
    train.export(
        trials.trial_spec(spec, winner.values),
        data,
        folder / "trials" / winner.key,
        bundle_folder,
        report,
    )
    events.EventLog(run_folder, "events").write(
        kind="sweep_finished", trials=len(ended), winner=winner.key
    )
    return SweepResult(ended, winner, bundle_folder)


def _draw(spec: ResolvedSpec, recorded: dict[str, Any], folder: Storage) -> list[dict[str, Any]]:
    """Draws the trials: for each its `key` and `all_values`, by spec path.

    Raises:
        TrainError: The spec has no sweep.
        RunError: Trials were begun that are none of these.
    """
    sweep = spec.sweep
    if sweep is None:
        raise TrainError("this spec has no sweep", "Add a section `sweep` with a `space`.")
    drawn = engine.sample(
        {path: _tune_domain(domain) for path, domain in sweep.space.items()},
        sweep.num_samples,
        spec.seed,
    )
    # A point that is drawn twice would train the same model twice.
    points = {canonical_json(values): values for values in drawn}.values()
    keys = [trials.trial_key(recorded, values) for values in points]
    trials.refuse_unknown(folder, keys)
    return [{"key": key, "all_values": values} for key, values in zip(keys, points, strict=True)]


def _fit(
    spec: ResolvedSpec, data: Prepared, folder: Storage, drawn: list[dict[str, Any]], report: Say
) -> Any:
    import ray

    # Read by Tune when it is imported. Its new console output prints tables whatever `verbose`
    # says.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune's handler would end the sweep as if it were complete, with the trials that there are.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    from ray import tune

    assert spec.sweep is not None
    needs = plan.worker_resources(spec, ray.cluster_resources())
    # Tune's own state is never resumed: it gets a new folder for each driver, removed at the end.
    name = f"tune-{time.time_ns()}"
    handle = mailbox.create()
    trainable = tune.with_parameters(
        _run_trial,
        spec=specs.to_dict(spec),
        data_uri=data.folder.uri,
        folder_uri=folder.uri,
        handle=handle,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, needs),
        # The points are drawn already, so that they do not depend on Tune's order; Tune only
        # walks through them.
        param_space={"trial": tune.grid_search(drawn)},
        tune_config=tune.TuneConfig(
            metric="metric",
            mode=spec.train.mode,
            max_concurrent_trials=spec.sweep.max_concurrent_trials,
            scheduler=_scheduler(spec),
            # The next trial gets a warm process: importing torch takes longer than a small trial.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=folder.uri,
            verbose=0,
            callbacks=[_progress(spec, folder, len(drawn), report)],
            failure_config=tune.FailureConfig(max_failures=spec.fault_tolerance.max_failures),
        ),
    )
    try:
        results = tuner.fit()
        interruption.raise_received()
        return results
    except KeyboardInterrupt:
        _keep_states(handle)
        raise
    finally:
        ray.kill(handle)
        with contextlib.suppress(OSError):
            (folder / name).delete()


def _keep_states(handle: Any) -> None:
    """Lets the trials of a driver that ends stop between two steps, with a checkpoint."""
    deadline_s = time.monotonic() + interruption.KEEP_TIMEOUT_S
    # Whatever fails now, a trial continues from an older checkpoint.
    with contextlib.suppress(Exception):
        mailbox.get_reply(handle.request_stop.remote(planned_stop.INTERRUPT))
        while time.monotonic() < deadline_s and mailbox.get_reply(handle.num_training.remote()):
            time.sleep(0.1)


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
    # The spec allows exactly one kind of domain, so only this one is left.
    low, high = domain.randint or (0, 1)
    return tune.randint(int(low), int(high))


def _scheduler(spec: ResolvedSpec) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    sweep = spec.sweep
    if sweep is None or sweep.scheduler.name == "fifo":
        return FIFOScheduler()
    longest = spec.train.epochs or _MANY_EPOCHS
    return ASHAScheduler(
        # Not Tune's training_iteration, which starts again when a trial is restored.
        time_attr="epoch",
        # ASHA refuses a grace period that is longer than the trial.
        max_t=max(longest, sweep.scheduler.grace_period),
        grace_period=sweep.scheduler.grace_period,
        reduction_factor=sweep.scheduler.reduction_factor,
    )


def _progress(spec: ResolvedSpec, folder: Storage, num_trials: int, report: Say) -> Any:
    from ray import tune

    class TrialLines(tune.Callback):  # type: ignore[misc]
        """Shows a line for each trial that ends."""

        num_ended = 0

        def on_trial_complete(
            self,
            iteration: int,  # noqa: ARG002
            trials: list[Any],  # noqa: ARG002
            trial: Any,
            **info: Any,  # noqa: ARG002
        ) -> None:
            self.num_ended += 1
            report(f"sweep     {self.num_ended} of {num_trials} {_describe(trial.config['trial'])}")

    def _describe(drawn: dict[str, Any]) -> str:
        ended = trials.read_trial(spec, folder, **drawn, has_failed=False)
        score = "no metric" if ended.metric is None else f"{ended.metric:.4f}"
        result = f"{ended.epochs} epoch(s), best {spec.train.metric} {score}"
        return f"ended after {result}: {trials.format_values(ended.values)}"

    return TrialLines()


def _run_trial(
    config: dict[str, Any], spec: dict[str, Any], data_uri: str, folder_uri: str, handle: Any
) -> None:
    """Trains one trial in a Tune actor, from where an earlier sweep left it.

    Args:
        config: The trial as it was drawn, with its key and values, as Tune passes it.
        spec: Resolved spec of the sweep, as plain values.
        data_uri: URI of the folder of the prepared data set.
        folder_uri: URI of the folder of the sweep.
        handle: Mailbox, which says when to stop.
    """
    from ray import tune

    key, values = config["trial"]["key"], config["trial"]["all_values"]
    own = trials.trial_spec(specs.resolve(specs.from_dict(spec)), values)
    folder = Storage(folder_uri) / "trials" / key

    def report_epoch(record: dict[str, Any]) -> bool:
        tune.report({"epoch": record["epoch"], "metric": trials.tune_metric(own, record)})
        return True

    # The scheduler starts anew with each driver and has to see the epochs that are done.
    for record in trials.read_epochs(folder):
        report_epoch(record)
    if folder.exists(trials.FINISHED_FILE):
        return
    data = load(Storage(data_uri))
    # The values of a trial may build a different network from the one that the driver tried.
    prove_state(own, data)
    mailbox.get_reply(handle.enter.remote(key))
    hooks = Hooks(
        on_epoch=report_epoch,
        stop_request=lambda: mailbox.get_reply(handle.stop_reason.remote()),
    )
    try:
        worker_failure.guard(0, lambda: worker.fit(own, folder, data.folder, hooks=hooks))
    except PlannedStopError:
        return  # The driver ends; the next one continues from the checkpoint.
    finally:
        handle.leave.remote(key)
    trials.mark_finished(folder, own, values)
