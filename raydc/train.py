"""A run, from a resolved spec and a data set to a model. Runs in the driver.

The workers run on Ray, or, with `scaling.num_workers: 0`, in the calling process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from raydc import bundle
from raydc.checkpoint import best, run_files
from raydc.checkpoint import fork as forks
from raydc.checkpoint import resume as resuming
from raydc.checkpoint.fork import Fork
from raydc.checkpoint.state import State, spec_hash, unpack_model, unpack_state
from raydc.checkpoint.store import CheckpointStore, Found, name_of
from raydc.checksummed_folder import read_manifest
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.elastic.run_errors import training_error
from raydc.elastic.run_metrics import RunMetrics
from raydc.elastic.worker_failure import WorkerFailure, guard
from raydc.engine import interruption
from raydc.errors import CheckpointError, FormatError, RunError, Say
from raydc.features import Features
from raydc.loop import planned_stop, worker
from raydc.loop.hooks import Hooks
from raydc.models.score_threshold import describe_thresholds, with_thresholds
from raydc.spec import ResolvedSpec
from raydc.spec.threshold import is_of_label
from raydc.storage import Storage
from raydc.tracking import events, lease, time_account
from raydc.tracking.phase_timer import read_account, timed_record
from raydc.tracking.progress import Progress
from raydc.tracking.time_account import CHECKPOINT

_NO_CHECKPOINT_HINT = "Train again with --new."


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        steps: Steps done, over all attempts.
        epochs: Epochs, a last partial one included.
        metrics: Validation metrics of the checkpoint that became the model; None if not finite.
        checkpoint: Name of that checkpoint.
        reason: completed or early_stop.
        restarts: Starts of the workers by this driver after the first.
    """

    steps: int
    epochs: int
    metrics: dict[str, float | None]
    checkpoint: str
    reason: str
    restarts: int


def run(
    spec: ResolvedSpec,
    data: Prepared,
    run_folder: Storage,
    report: Say,
    resume: bool = False,
    fork: Fork | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Trains a model and writes its bundle to `run_folder`/model.

    Args:
        spec: The resolved spec; with zero workers it trains in this process.
        data: Prepared data set; on a resume the one that the run began with.
        run_folder: Takes checkpoints, metrics, events and the model.
        report: Shows a line of progress.
        resume: Whether to continue the run in the folder.
        fork: Weights of another run to start a new run with; None for the model's own.
        watch: Takes each record that the run publishes; None for nobody.

    Raises:
        RunError: The folder holds a run and `resume` was not given, or the run has a different
            spec or data set, or another process drives it.
        ClusterError: The cluster cannot hold the workers.
        TrainError: Training failed more often than the spec allows, or in the same way again and
            again.
        CheckpointError: No checkpoint verifies.
        FormatError: A newer raydc wrote its newest checkpoint.
    """
    store = CheckpointStore(run_folder / "checkpoints", spec.checkpoint.num_to_keep)
    if store.steps() and not resume:
        raise RunError(
            f"run {spec.name!r} has been trained already: {len(store.steps())} checkpoints at "
            f"{run_folder.uri}",
            "Pass --resume to continue it, or --new to start again.",
        )
    attempts_before = _num_attempts(run_folder)
    facts = {"spec_hash": spec_hash(spec), "data_hash": data.data_hash, "resume": resume}
    with (
        interruption.resumable(),
        lease.hold(run_folder) as claim,
        claim.explain_errors(),
        _driver_log(run_folder, claim, **facts) as log,
    ):
        if resume:
            _refuse_early(spec, data, store, run_folder, report)
        elif fork is not None:
            forks.write_first_checkpoint(fork, spec, data, run_folder)
            log.write(
                kind="forked",
                **{f"from_{name}": value for name, value in vars(fork.origin).items()},
            )
            other = (
                ""
                if fork.origin.data_hash == data.data_hash
                else ", which were trained on a different data set"
            )
            report(f"train     starts with the weights of {fork.origin}{other}")
        run_metrics = RunMetrics(spec.name)

        def pass_on(record: dict[str, Any]) -> None:
            if watch is not None:
                # Whoever watches must end neither the run nor its metrics.
                with contextlib.suppress(Exception):
                    watch(record)
            run_metrics.add(record)

        with Progress(report, spec.train.global_batch_size, pass_on) as progress:
            if spec.scaling.max_workers == 0:
                _fit_here(spec, run_folder, data, progress, claim)
            else:
                # Ray Train takes a second to import, which a run in this process does not need.
                from raydc.elastic import trainer

                trainer.fit(spec, data.folder, run_folder, progress, log, claim)
        # A driver that was suspended must not write a model beside that of the other.
        claim.check()
        with timed_record(log, CHECKPOINT):
            found = export(spec, data, run_folder, run_folder / "model", report)
    # The model is the best checkpoint; the last checkpoint says how the run ended.
    last, chosen = unpack_state(store.require_newest(_NO_CHECKPOINT_HINT)), unpack_state(found)
    # An attempt that never started its workers has no event, so there may be none at all.
    restarts = max(0, _num_attempts(run_folder) - attempts_before - 1)
    ended = [record for record in events.read(run_folder, "events") if record["kind"] == "epoch"]
    epochs = ended[-1]["epoch"] if ended else 0
    metrics, reason = chosen.metrics or {}, last.reason or "completed"
    result = TrainResult(last.step, epochs, metrics, name_of(found.step), reason, restarts)
    report(_summary(result))
    for line in time_account.format_lines(read_account(run_folder)):
        report(f"          {line}")
    return result


def _fit_here(
    spec: ResolvedSpec,
    run_folder: Storage,
    data: Prepared,
    progress: Progress,
    claim: lease.Claim,
) -> None:
    """Trains in this process, with the same page for an unexpected error as from a worker.

    A signal ends it between two steps, with a checkpoint.
    """

    def stop_request() -> str | None:
        return None if interruption.received() is None else planned_stop.INTERRUPT

    hooks = Hooks(publish=progress.show, stop_request=stop_request, claim=claim)
    try:
        with interruption.deferred(), contextlib.suppress(planned_stop.PlannedStopError):
            guard(0, lambda: worker.fit(spec, run_folder, data.folder, hooks=hooks))
    except WorkerFailure as failure:
        cause = failure.__cause__
        # A full disk is no fault of the network; the command line says what to do about it.
        if isinstance(cause, OSError):
            raise cause from None
        # Without handlers, as in a notebook, it is the user's own.
        if isinstance(cause, KeyboardInterrupt) and not interruption.is_catching():
            raise cause from None
        raise training_error(spec, {0: failure}) from failure
    # It may also have come while the last checkpoint was written.
    interruption.raise_received()


def _refuse_early(
    spec: ResolvedSpec, data: Prepared, store: CheckpointStore, run_folder: Storage, report: Say
) -> None:
    """Refuses a resume before any worker starts, for the reasons that workers would give."""
    steps = store.steps()
    if not steps:
        run_files.refuse_lost_checkpoints(spec, store, events.read(run_folder, "events"))
        report("train     no checkpoint was written before; starting at step 0")
        return
    # The newest with a manifest; if its files do not verify, the workers search for one that does.
    for step in reversed(steps):
        try:
            meta, _ = read_manifest(store.folder / name_of(step))
        except FormatError:
            raise  # It verifies for a newer raydc, so an older one must not win over it.
        except CheckpointError:
            continue
        resuming.refuse_other_data(spec, meta["data_hash"], data.data_hash)
        run_files.report_damage(run_folder, step, report)
        resuming.retry_reads(
            partial(resuming.check_best, store, step, report), store.folder, pauses_s=()
        )
        return


@contextlib.contextmanager
def _driver_log(run_folder: Storage, claim: lease.Claim, **facts: Any) -> Iterator[events.EventLog]:
    """Records the life of a driver in the events of the run: `run_started` and `driver_ended`."""
    # A disk that is full for a moment must not end the run for the sake of an event.
    log = events.EventLog(run_folder, "events", patient=True)
    log.write(kind="run_started", **facts)
    # So that readers on an object store see it before the run ends.
    log.flush()
    try:
        yield log
    finally:
        # Without this line the run counts as idle from its last event on, so that it must not be
        # written where another driver goes on.
        with contextlib.suppress(OSError, lease.TakenOverError):
            claim.check()
            log.write(kind="driver_ended")
            log.flush()


def export(
    spec: ResolvedSpec, data: Prepared, run_folder: Storage, bundle_folder: Storage, report: Say
) -> Found:
    """Writes the best checkpoint of a run as a bundle; without validation, the last one.

    If the best one does not verify, the best of those that do takes its place.

    Args:
        spec: The resolved spec of the run.
        data: Data set that it was trained on, for its features and golden rows.
        run_folder: Has the checkpoints to choose from; it is only read.
        bundle_folder: Takes the bundle; an existing one is replaced.
        report: Shows a line if the best checkpoint is lost.

    Returns:
        The checkpoint that was written.

    Raises:
        CheckpointError: No checkpoint verifies.
    """
    store = CheckpointStore(run_folder / "checkpoints", spec.checkpoint.num_to_keep)
    newest = store.require_newest(_NO_CHECKPOINT_HINT)
    found, lost = best.choose(store, newest, spec.train)
    state = unpack_state(found)
    facts: dict[str, Any] = {
        "run": spec.name,
        "step": found.step,
        "metrics": {
            name: value
            for name, value in (state.metrics or {}).items()
            if value is not None and not is_of_label(name)
        },
        "data_hash": data.data_hash,
        "spec_hash": found.meta["spec_hash"],
    }
    if lost is not None:
        report(f"train     the best checkpoint, {lost.name}, cannot be the model: {lost.reason}")
        scores = ", ".join(f"{name} {value:.4f}" for name, value in facts["metrics"].items())
        report(f"          the model is {name_of(found.step)}, the best that verifies: {scores}")
        facts["in_place_of_step"] = lost.step
    if origin := forks.origin_of(run_folder):
        facts["forked_from"] = str(origin)
    features = _with_threshold(spec, data.features, state)
    if (told := describe_thresholds(features)) is not None:
        facts["threshold"] = told
    golden_rows = read_golden_rows(data.folder)
    # The weights follow from the number of rows that the run has found.
    own = run_files.with_micro_batch(spec, found.files["spec.yaml"])
    bundle.write(bundle_folder, own, features, unpack_model(found), golden_rows, facts)
    return found


def _with_threshold(spec: ResolvedSpec, features: Features, state: State) -> Features:
    """The features of the model: those of the data set, with the threshold of its epoch."""
    # In the middle of an epoch it would be that of weights that have changed since.
    if state.loss_rows:
        return features
    return with_thresholds(spec.train.threshold, features, state.metrics or {})


def _num_attempts(run_folder: Storage) -> int:
    return sum(record["kind"] == "attempt_started" for record in events.read(run_folder, "events"))


def _summary(result: TrainResult) -> str:
    scores = "  ".join(
        f"{name} {value:.4f}"
        for name, value in result.metrics.items()
        if value is not None and not is_of_label(name)
    )
    restarts = f", {result.restarts} restart(s)" if result.restarts else ""
    end = f"{result.reason} after {result.steps:,} steps{restarts}"
    return f"train     {end}; best is {result.checkpoint}: {scores}"
