"""Training on Ray: a TorchTrainer whose workers run `raydc.worker`, and what comes out of it.

Ray Train starts, watches and restarts the workers. What a restart goes on from is raydc's own checkpoint, never Ray's
record of the run, which is kept in a folder of its own for each driver and removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raydc import account, bundle, events, plan, worker
from raydc import spec as specs
from raydc.checkpoint import CheckpointStore, Found, name_of
from raydc.clock import CHECKPOINT, account_of, noting
from raydc.data.prepare import Prepared
from raydc.errors import CheckpointError, ClusterError, RunError, TrainError
from raydc.meters import Meters
from raydc.progress import Progress, Report
from raydc.spec.sections import Spec
from raydc.spec.train import WorkerRange
from raydc.state import State, spec_hash, state_of, unpack_weights
from raydc.storage import Storage

_COLLECTIVE_TIMEOUT_S = 120
_POLL_EVERY_S = 0.5
# Attempts to start the workers; each waits RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S for free resources.
_MAX_START_FAILURES = 20


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        steps: Steps done, over all attempts.
        epochs: Epochs, a last partial one included.
        metrics: Of the checkpoint that became the model.
        checkpoint: Its name.
        reason: completed, early_stop or stopped.
        restarts: How often the workers were started again by this driver.
    """

    steps: int
    epochs: int
    metrics: dict[str, float | None]
    checkpoint: str
    reason: str
    restarts: int


def run(spec: Spec, data: Prepared, run_folder: Storage, report: Report, resume: bool = False) -> TrainResult:
    """Trains a model and writes its bundle to `run_folder`/model.

    Args:
        spec: A resolved spec.
        data: The prepared data set.
        run_folder: Of the run: checkpoints, metrics, events, model.
        report: Takes lines of progress.
        resume: Go on with what the folder holds.

    Raises:
        RunError: The folder holds a run and `resume` was not given, or it is of another spec or data set.
        ClusterError: The cluster cannot hold the workers.
        TrainError: Training failed more often than the spec allows, or in the same way twice.
        CheckpointError: No checkpoint verifies.
    """
    store = CheckpointStore(run_folder / "checkpoints", spec.checkpoint.num_to_keep)
    if store.steps() and not resume:
        raise RunError(
            f"run {spec.name!r} has been trained already: {len(store.steps())} checkpoints at {run_folder.uri}",
            "Type --resume to go on with it, or --new to start again.",
        )
    attempts_before = _num_attempts(run_folder)
    facts = {"spec_hash": spec_hash(spec), "data_hash": data.data_hash, "resume": resume}
    with _driver(run_folder, **facts) as log:
        with Progress(report, spec.train.global_batch_size, Meters(spec.name).take) as progress:
            if spec.scaling.max_workers == 0:
                worker.fit(spec, run_folder, data.folder, publish=progress.take)
            else:
                _fit_on_ray(spec, data.folder, run_folder, progress)
        with noting(log, CHECKPOINT):
            found = export(spec, data, run_folder, run_folder / "model")
    last, chosen = state_of(_newest(store)), state_of(found)
    restarts = max(0, _num_attempts(run_folder) - attempts_before - 1)
    epochs = -(-last.step // -(-data.num_rows["train"] // spec.train.global_batch_size))
    metrics, reason = chosen.metrics or {}, last.reason or "completed"
    result = TrainResult(last.step, epochs, metrics, name_of(found.step), reason, restarts)
    report(_summary(result))
    for line in account.lines(account_of(run_folder)):
        report(f"          {line}")
    return result


@contextlib.contextmanager
def _driver(run_folder: Storage, **facts: Any) -> Iterator[events.Log]:
    """The life of a driver, from `run_started` to `driver_ended` in the events of the run."""
    log = events.Log(run_folder, "events")
    log.write(kind="run_started", **facts)
    log.flush()
    try:
        yield log
    finally:
        log.write(kind="driver_ended")
        log.flush()


def export(spec: Spec, data: Prepared, run_folder: Storage, bundle_folder: Storage) -> Found:
    """Writes the best checkpoint of a run as a bundle: by the validation metric, or the last one without it.

    Args:
        spec: The resolved spec of the run.
        data: The data set that it was trained on.
        run_folder: Of the run.
        bundle_folder: Where the bundle goes.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: There is none that verifies, or the best is damaged.
    """
    store = CheckpointStore(run_folder / "checkpoints", spec.checkpoint.num_to_keep)
    newest = _newest(store)
    best_step = state_of(newest).best_step
    found = newest if best_step in (None, newest.step) else store.read(best_step or 0)
    state = state_of(found)
    facts = {
        "run": spec.name,
        "step": found.step,
        "metrics": {name: value for name, value in (state.metrics or {}).items() if value is not None},
        "data_hash": data.data_hash,
        "spec_hash": found.meta["spec_hash"],
    }
    golden_rows = data.folder.read_json("golden_rows.json")
    bundle.write(bundle_folder, spec, data.features, unpack_weights(found), golden_rows, facts)
    return found


def _newest(store: CheckpointStore) -> Found:
    found, skipped = store.newest()
    if found is None:
        reason = f": {skipped[0].reason}" if skipped else ""
        raise CheckpointError(
            f"{store.folder.uri} holds no checkpoint that verifies{reason}", "Train again with --new."
        )
    return found


def _num_attempts(run_folder: Storage) -> int:
    return sum(record["kind"] == "attempt_started" for record in events.read(run_folder, "events"))


def _summary(result: TrainResult) -> str:
    scores = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items() if value is not None)
    restarts = f", {result.restarts} restart(s)" if result.restarts else ""
    return f"train     {result.reason} after {result.steps:,} steps{restarts}; best is {result.checkpoint}: {scores}"


# On Ray ----------------------------------------------------------------------------------------------


def _fit_on_ray(spec: Spec, data_folder: Storage, run_folder: Storage, progress: Progress) -> None:
    import ray
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from raydc import board

    plan.make(spec.model_copy(update={"serve": None}), ray.cluster_resources())
    if lack := _lack(spec, ray.cluster_resources(), ray.available_resources()):
        progress.say(f"train     waits for others to end: {lack}")
    handle = board.create()
    trainer = _trainer(spec, data_folder, run_folder, handle)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        with _watch(handle, progress):
            trainer.fit()
    except WorkerGroupError as error:
        raise board.ask(handle.verdict.remote()) or _failed(spec, error) from error
    except ControllerError as error:
        raise _not_started(spec, error) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray Train leaves a handler behind that asks its ended controller.
            signal.signal(signal.SIGINT, on_interrupt)
        with contextlib.suppress(OSError):
            (run_folder / "ray").delete()
    verdict = board.ask(handle.verdict.remote())
    ray.kill(handle)
    if verdict is not None:
        raise verdict


def _lack(spec: Spec, total: dict[str, float], free: dict[str, float]) -> str:
    """What keeps the fewest workers from starting at once: others hold it. Empty where nothing does."""
    needs = plan.worker_resources(spec, total)
    if plan.how_many(needs, free) >= spec.scaling.min_workers:
        return ""
    amounts = ", ".join(f"{free.get(name, 0.0):g} of {total[name]:g} {name}" for name in needs)
    return f"{spec.scaling.min_workers} worker(s) of {needs} each, but free are {amounts}"


def _trainer(spec: Spec, data_folder: Storage, run_folder: Storage, handle: Any) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = ray.cluster_resources()
    workers, tolerance = spec.scaling.num_workers, spec.fault_tolerance
    use_gpu = plan.uses_gpu(spec, resources)
    return TorchTrainer(
        _work,
        train_loop_config={
            "spec": specs.to_dict(spec),
            "data_folder": data_folder.uri,
            "run_folder": run_folder.uri,
            "import_from": os.getcwd(),
            "board": handle,
        },
        scaling_config=ScalingConfig(
            num_workers=(workers.min, workers.max) if isinstance(workers, WorkerRange) else workers,
            use_gpu=use_gpu,
            resources_per_worker=plan.worker_resources(spec, resources),
        ),
        # Metrics of the validation are summed on the CPU, gradients where they are.
        torch_config=TorchConfig("cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
        run_config=RunConfig(
            name=f"driver-{time.time_ns()}",
            storage_path=(run_folder / "ray").uri,
            failure_config=FailureConfig(
                max_failures=tolerance.max_failures,
                max_preemption_failures=tolerance.max_preemption_failures,
                controller_failure_limit=_MAX_START_FAILURES,
            ),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """Runs in each Ray Train worker."""
    import ray.train
    from ray.train.torch import get_device

    from raydc import board, recent
    from raydc.group import Alone, Workers

    if config["import_from"] not in sys.path and os.path.isdir(config["import_from"]):
        sys.path.insert(0, config["import_from"])
    context, handle, device = ray.train.get_context(), config["board"], get_device()

    def fit() -> State:
        spec = specs.from_dict(config["spec"], "resolved spec")
        return worker.fit(
            spec,
            Storage(config["run_folder"]),
            Storage(config["data_folder"]),
            group=Workers(device) if context.get_world_size() > 1 else Alone(),
            publish=handle.publish.remote,
            device=device,
            recent=recent.InHolders(handle) if spec.fault_tolerance.max_recomputed_steps else None,
        )

    board.guard(handle, context.get_world_rank(), fit)


@contextlib.contextmanager
def _watch(handle: Any, progress: Progress) -> Iterator[None]:
    """Shows what the workers publish while the caller waits for them."""
    from ray.exceptions import GetTimeoutError, RayActorError

    from raydc import board

    over = threading.Event()

    def collect() -> None:
        for record in board.ask(handle.collect.remote()):
            progress.take(record)

    def watch() -> None:
        while not over.wait(_POLL_EVERY_S):
            with contextlib.suppress(GetTimeoutError, RayActorError):
                collect()

    thread = threading.Thread(target=watch, name="raydc-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(GetTimeoutError, RayActorError):
            collect()


def _failed(spec: Spec, error: Any) -> TrainError:
    from raydc.group import PeerLostError

    failures = sorted(error.worker_failures.items())
    # Who lost a peer has nothing to tell about why.
    told = [(rank, cause) for rank, cause in failures if not isinstance(_cause_of(cause), PeerLostError)] or failures
    lines = [f"rank {rank}: {type(_cause_of(cause)).__name__}: {_first_line(_cause_of(cause))}" for rank, cause in told]
    limit = spec.fault_tolerance.max_failures
    return TrainError(
        f"training failed; fault_tolerance.max_failures is {limit}\n    " + "\n    ".join(lines),
        "Type --resume to go on from the last checkpoint once the cause is gone.",
    )


def _cause_of(error: BaseException) -> BaseException:
    inner = getattr(error, "cause", None) or error.__cause__
    return inner if isinstance(inner, BaseException) else error


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def _not_started(spec: Spec, error: Any) -> ClusterError:
    import ray

    needs = plan.worker_resources(spec, ray.cluster_resources())
    free = {name: ray.available_resources().get(name, 0.0) for name in needs}
    return ClusterError(
        f"the workers were not started in {_MAX_START_FAILURES} attempts: {spec.scaling.min_workers} of {needs} each; "
        f"free now: {free}; Ray says: {_first_line(error.controller_failure)}",
        "Wait for other jobs, ask for fewer or smaller workers, or give --address of a larger cluster.",
    )
