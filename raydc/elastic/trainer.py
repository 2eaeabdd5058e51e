"""Training on Ray: a TorchTrainer whose workers run `raydc.loop.worker`.

Ray Train starts, watches and restarts the workers; `raydc.elastic.scaling_policy` takes the decisions that it leaves open. What a
restart goes on from is raydc's own checkpoint, never Ray's record of the run, which is kept in a folder of its own
for each driver and removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydc import engine, plan
from raydc import spec as specs
from raydc.elastic import mailbox, peer_memory, scaling_policy, worker_failure
from raydc.elastic.controller import ElasticController
from raydc.elastic.failure_policy import FailurePolicy
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.elastic.worker_failure import WorkerFailure
from raydc.engine import internals
from raydc.errors import ClusterError, TrainError, first_line
from raydc.loop import planned_stop, worker
from raydc.loop.group import Alone, PeerLostError, Workers
from raydc.spec import ResolvedSpec
from raydc.spec.train import WorkerRange
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.progress import Progress

_COLLECTIVE_TIMEOUT_S = 120
_POLL_EVERY_S = 0.5
_MAX_START_FAILURES = 20
_RESUME = "Type --resume to go on from the last checkpoint once the cause is gone."


def fit(
    spec: ResolvedSpec,
    data_folder: Storage,
    run_folder: Storage,
    progress: Progress,
    log: events.EventLog,
) -> None:
    """Trains on the Ray that this process is connected to.

    Args:
        spec: A resolved spec with workers.
        data_folder: A prepared data set.
        run_folder: Of the run.
        progress: Is shown what happens.
        log: Takes the events of the controller.

    Raises:
        RaydcError: Whatever a worker refused to do.
        ClusterError: The cluster cannot hold the workers.
        TrainError: Workers failed more often than the spec allows, or in the same way again and again.
    """
    plan.make(spec.model_copy(update={"serve": None}), ray.cluster_resources())
    if lack := _lack(spec, ray.cluster_resources(), ray.available_resources()):
        progress.say(f"train     waits for others to end: {lack}")
    handle = mailbox.create()
    trainer = _trainer(spec, data_folder, run_folder, handle)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        with _watch(handle, progress, log):
            trainer.fit()
    except internals.WorkerGroupError as error:
        raise engine.find_cause(error) or _failed(spec, error) from error
    except internals.ControllerError as error:
        raise engine.find_cause(error.controller_failure) or _not_started(spec, error) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray Train leaves a handler behind that asks its ended controller.
            signal.signal(signal.SIGINT, on_interrupt)
        ray.kill(handle)
        with contextlib.suppress(OSError):
            (run_folder / "ray").delete()


def _lack(spec: ResolvedSpec, total: dict[str, float], free: dict[str, float]) -> str:
    """What keeps the fewest workers from starting at once: others hold it. Empty where nothing does."""
    needs = plan.worker_resources(spec, total)
    if plan.how_many(needs, free) >= spec.scaling.min_workers:
        return ""
    amounts = ", ".join(f"{free.get(name, 0.0):g} of {total[name]:g} {name}" for name in needs)
    return f"{spec.scaling.min_workers} worker(s) of {needs} each, but free are {amounts}"


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer whose controller is raydc's; Ray has no setting for it."""

    def __init__(
        self,
        *arguments: Any,
        spec: ResolvedSpec,
        board: Any,
        spares: StandbyProcesses,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._board = board
        needs = plan.worker_resources(spec, ray.cluster_resources())
        self._scaling = scaling_policy.ElasticScaling(
            self.scaling_config,
            needs,
            spec.scaling.start_timeout_s,
            board,
            spares,
            autoscales=not internals.is_own_ray(),
        )

    def fit(self) -> Any:
        """Raises WorkerGroupError or ControllerError."""
        here = {internals.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        settings = {"env_vars": internals.get_env_vars_to_propagate()}
        remote = ray.remote(num_cpus=0, label_selector=here, runtime_env=settings)(
            ElasticController
        )
        controller = remote.remote(
            train_fn_ref=internals.ObjectRefWrapper(self._get_train_func()),
            train_run_context=self.train_run_context,
            scaling_policy=self._scaling,
            failure_policy=FailurePolicy(self.run_config.failure_config, self._board),
            callbacks=[
                callback
                for callback in self._create_default_callbacks()
                if not _is_cleaner(callback)
            ],
        )
        if threading.current_thread() is threading.main_thread():
            self._register_sigint_handler(controller)
        ray.get(controller.run.remote())
        result = ray.get(controller.get_result.remote())
        if result.error:
            raise result.error
        return result


def _is_cleaner(callback: Any) -> bool:
    """Ray's cleaner, another process, is for a controller that dies before its driver: here the driver ends with it."""
    return isinstance(callback, internals.PlacementGroupCleanerCallback)


def _trainer(
    spec: ResolvedSpec, data_folder: Storage, run_folder: Storage, handle: Any
) -> _Trainer:
    resources = ray.cluster_resources()
    workers, tolerance = spec.scaling.num_workers, spec.fault_tolerance
    use_gpu = plan.uses_gpu(spec, resources)
    spares = StandbyProcesses(tolerance.spare_workers, "raydc.elastic.preload.run")
    return _Trainer(
        _work,
        spec=spec,
        board=handle,
        spares=spares,
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
        torch_config=TorchConfig(
            "cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S
        ),
        run_config=RunConfig(
            name=f"driver-{time.time_ns()}",
            storage_path=(run_folder / "ray").uri,
            worker_runtime_env=spares.settings,
            failure_config=FailureConfig(
                max_failures=tolerance.max_failures,
                max_preemption_failures=tolerance.max_preemption_failures,
                controller_failure_limit=_MAX_START_FAILURES,
            ),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """Runs in each Ray Train worker."""
    from ray.train.torch import get_device

    if config["import_from"] not in sys.path and os.path.isdir(config["import_from"]):
        sys.path.insert(0, config["import_from"])
    context, handle, device = ray.train.get_context(), config["board"], get_device()

    def train() -> None:
        spec = specs.resolve(specs.from_dict(config["spec"], "resolved spec"))
        worker.fit(
            spec,
            Storage(config["run_folder"]),
            Storage(config["data_folder"]),
            group=Workers(device) if context.get_world_size() > 1 else Alone(),
            publish=handle.publish.remote,
            device=device,
            recent=peer_memory.PeerMemory(handle)
            if spec.fault_tolerance.max_recomputed_steps
            else None,
            pending=planned_stop.requested_reason,
        )

    worker_failure.guard(context.get_world_rank(), train)


@contextlib.contextmanager
def _watch(handle: Any, progress: Progress, log: events.EventLog) -> Iterator[None]:
    """Shows what the workers publish while the caller waits for them, and writes what the controller says."""
    over = threading.Event()

    def collect() -> None:
        for record in mailbox.get_reply(handle.collect.remote()):
            if record.pop("unwritten", False):
                log.write(**record)
            progress.show(record)

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


def _failed(spec: ResolvedSpec, error: Any) -> TrainError:
    causes = {rank: _cause_of(failure) for rank, failure in sorted(error.worker_failures.items())}
    if pages := [cause.page for cause in causes.values() if isinstance(cause, WorkerFailure)]:
        again = "Train with --set scaling.num_workers=0 to see it in this process."
        return TrainError("\n".join(pages), f"{again} {_RESUME}")
    # Who lost a peer has nothing to tell about why.
    told = {
        rank: cause for rank, cause in causes.items() if not isinstance(cause, PeerLostError)
    } or causes
    lines = [
        f"rank {rank}: {type(cause).__name__}: {first_line(cause)}" for rank, cause in told.items()
    ]
    limit = spec.fault_tolerance.max_failures
    return TrainError(
        f"training failed; fault_tolerance.max_failures is {limit}\n    " + "\n    ".join(lines),
        _RESUME,
    )


def _cause_of(error: BaseException) -> BaseException:
    inner = (
        getattr(error, "cause", None)
        or getattr(error, "health_check_failure", None)
        or error.__cause__
    )
    return inner if isinstance(inner, BaseException) else error


def _not_started(spec: ResolvedSpec, error: Any) -> ClusterError:
    needs = plan.worker_resources(spec, ray.cluster_resources())
    free = {name: ray.available_resources().get(name, 0.0) for name in needs}
    return ClusterError(
        f"the workers were not started: at least {spec.scaling.min_workers} of {needs} each; free now: {free}; "
        f"Ray says: {first_line(error.controller_failure)}",
        "Wait for other jobs, ask for fewer or smaller workers, or give --address of a larger cluster.",
    )
