"""Training on Ray: a TorchTrainer whose workers run `raydc.loop.worker`. Runs in the driver.

Ray Train starts, watches and restarts the workers; `scaling_policy` and `failure_policy` take the
decisions that it leaves open. A restart continues from raydc's own checkpoint, never from Ray's
record of the run: that record gets a new folder for each driver, which is removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raydc import engine, plan
from raydc import spec as specs
from raydc.elastic import (
    mailbox,
    peer_memory,
    preload,
    run_errors,
    scaling_policy,
    worker_failure,
)
from raydc.elastic.builder_import import add_import_folder
from raydc.elastic.controller import ElasticController
from raydc.elastic.failure_policy import ElasticFailurePolicy
from raydc.elastic.process_group import ProcessGroupConfig
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.engine import internals, interruption
from raydc.loop import planned_stop, worker
from raydc.loop.group import Alone, Workers
from raydc.loop.hooks import Hooks
from raydc.spec import ResolvedSpec
from raydc.spec.model import Builder
from raydc.spec.train import WorkerRange
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.lease import Claim
from raydc.tracking.progress import Progress

# How long a rank waits for its peers: longer than a checkpoint or a slow storage holds one up.
_COLLECTIVE_TIMEOUT_S = 120
_COLLECT_EVERY_S = 0.5
# Starts that fail in a row, as nodes come and go, do not count as failures of the run.
_MAX_START_FAILURES = 20


def fit(
    spec: ResolvedSpec,
    data_folder: Storage,
    run_folder: Storage,
    progress: Progress,
    log: events.EventLog,
    claim: Claim,
) -> None:
    """Trains on the Ray that this process is connected to.

    Args:
        spec: Resolved spec with at least one worker.
        data_folder: Prepared data set; every worker must reach it.
        run_folder: Takes checkpoints and logs; every worker must reach it.
        progress: Shows what workers and controller publish.
        log: Event log of the run; takes the events of the controller.
        claim: Claim of this driver on the run; workers that start after its loss write nothing.

    Raises:
        RaydcError: A worker refused to train.
        ClusterError: The cluster cannot hold the workers.
        TrainError: Workers failed more often than the spec allows, or in the same way again and
            again.
    """
    total = ray.cluster_resources()
    # Refuses what can never fit; the endpoint may need the same resources, but later.
    plan.make(spec.model_copy(update={"serve": None}), total)
    if lack := run_errors.describe_lack(spec, total, ray.available_resources()):
        progress.say(f"train     waiting for other jobs to end: {lack}")
    # Processes start and import torch, for up to minutes on a busy machine.
    progress.say("train     starting the workers")
    if isinstance(spec.model, Builder):
        progress.say(
            "          what its code prints goes to worker-*.out in /tmp/ray/session_latest/logs "
            "of each host"
        )
    handle = mailbox.create()
    trainer = _trainer(spec, data_folder, run_folder, handle, claim)
    try:
        with _watch(handle, progress, log):
            trainer.fit()
    except internals.WorkerGroupError as error:
        raise engine.find_cause(error) or run_errors.training_error(
            spec, error.worker_failures, progress.last_step
        ) from error
    except internals.ControllerError as error:
        cause = error.controller_failure
        raise engine.find_cause(cause) or run_errors.start_error(
            spec, ray.cluster_resources(), ray.available_resources(), cause
        ) from error
    finally:
        ray.kill(handle)
        with contextlib.suppress(OSError):
            (run_folder / "ray").delete()


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer with raydc's controller and policies; Ray has no setting for them."""

    def __init__(
        self,
        *arguments: Any,
        spec: ResolvedSpec,
        handle: Any,
        standby: StandbyProcesses,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._mailbox = handle
        needs = plan.worker_resources(spec, ray.cluster_resources())
        self._scaling = scaling_policy.ElasticScaling(
            self.scaling_config,
            needs,
            spec.scaling.start_timeout_s,
            handle,
            standby,
            # A Ray that this process started for itself has no autoscaler.
            autoscales=not internals.is_own_ray(),
        )

    def fit(self) -> Any:
        """Runs the controller and waits for it. Raises WorkerGroupError or ControllerError."""
        # The controller dies with the driver's node anyway, and needs no CPU of a worker's node.
        here = {internals.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        settings = {"env_vars": internals.get_env_vars_to_propagate()}
        remote = ray.remote(num_cpus=0, label_selector=here, runtime_env=settings)(
            ElasticController
        )
        controller = remote.remote(
            train_fn_ref=internals.ObjectRefWrapper(self._get_train_func()),
            train_run_context=self.train_run_context,
            scaling_policy=self._scaling,
            failure_policy=ElasticFailurePolicy(self.run_config.failure_config, self._mailbox),
            callbacks=[
                callback
                for callback in self._create_default_callbacks()
                if not _starts_unused_process(callback)
            ],
        )
        running = controller.run.remote()
        try:
            ray.get(running)
        except KeyboardInterrupt:
            _keep_state(controller, running)
            raise
        result = ray.get(controller.get_result.remote())
        if result.error:
            raise result.error
        return result


def _keep_state(controller: Any, running: Any) -> None:
    """Lets the workers of a driver that ends stop between two steps, with a checkpoint."""
    # Whatever fails now, the run continues from an older checkpoint.
    with contextlib.suppress(RayError):
        asked = controller.request_stop.remote(planned_stop.INTERRUPT)
        if ray.get(asked, timeout=interruption.KEEP_TIMEOUT_S):
            ray.get(running, timeout=interruption.KEEP_TIMEOUT_S)


def _starts_unused_process(callback: Any) -> bool:
    """Whether a callback of Ray starts a process for which a run has no use.

    One cleans up after a controller dies without its driver; here the controller is an actor of the
    driver, so neither outlives the other. One divides data sets of Ray Data among the workers,
    which read their rows themselves.
    """
    unused = (internals.PlacementGroupCleanerCallback, internals.DatasetsCallback)
    return isinstance(callback, unused)


def _trainer(
    spec: ResolvedSpec, data_folder: Storage, run_folder: Storage, handle: Any, claim: Claim
) -> _Trainer:
    resources = ray.cluster_resources()
    workers, tolerance = spec.scaling.num_workers, spec.fault_tolerance
    use_gpu = plan.uses_gpu(spec, resources)
    standby = StandbyProcesses(tolerance.spare_workers, preload.ENTRY)
    return _Trainer(
        _work,
        spec=spec,
        handle=handle,
        standby=standby,
        train_loop_config={
            "spec": specs.to_dict(spec),
            "data_folder": data_folder.uri,
            "run_folder": run_folder.uri,
            # A builder of the user's own is usually imported from where the driver was started.
            "import_from": os.getcwd(),
            "mailbox": handle,
            "claim": claim,
        },
        scaling_config=ScalingConfig(
            num_workers=(workers.min, workers.max) if isinstance(workers, WorkerRange) else workers,
            use_gpu=use_gpu,
            resources_per_worker=plan.worker_resources(spec, resources),
        ),
        # Gradients are reduced on the GPU, metrics of a validation on the CPU.
        torch_config=ProcessGroupConfig(
            "cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S
        ),
        run_config=RunConfig(
            # A new name for each driver: Ray would continue from a record of the same name.
            name=f"driver-{time.time_ns()}",
            storage_path=(run_folder / "ray").uri,
            worker_runtime_env=standby.runtime_env,
            failure_config=FailureConfig(
                max_failures=tolerance.max_failures,
                max_preemption_failures=tolerance.max_preemption_failures,
                controller_failure_limit=_MAX_START_FAILURES,
            ),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """Trains in a Ray Train worker; Ray calls it in each of them."""
    from ray.train.torch import get_device

    add_import_folder(config["import_from"])
    context, handle, device = ray.train.get_context(), config["mailbox"], get_device()

    def train() -> None:
        spec = specs.resolve(specs.from_dict(config["spec"], "resolved spec"))
        worker.fit(
            spec,
            Storage(config["run_folder"]),
            Storage(config["data_folder"]),
            group=Workers(device) if context.get_world_size() > 1 else Alone(device),
            hooks=Hooks(
                publish=handle.publish.remote,
                post_event=lambda kind, **fields: handle.post_event.remote(
                    {"kind": kind, "time_s": round(time.time(), 3), **fields}
                ),
                claim=config["claim"],
                next_attempt=lambda: int(mailbox.get_reply(handle.next_attempt.remote())),
                peer_memory=peer_memory.PeerMemory(handle)
                if spec.fault_tolerance.max_recomputed_steps
                else None,
                stop_request=planned_stop.requested_reason,
            ),
        )

    worker_failure.guard(context.get_world_rank(), train)


@contextlib.contextmanager
def _watch(handle: Any, progress: Progress, log: events.EventLog) -> Iterator[None]:
    """Collects from the mailbox during the block: shows records, and writes the controller's
    events.

    A thread does it, because the block waits for Ray.
    """
    is_over = threading.Event()

    def collect() -> None:
        for record in mailbox.get_reply(handle.collect.remote()):
            if record.pop("unwritten", False):
                log.write(**record)
            progress.show(record)

    def watch() -> None:
        while not is_over.wait(_COLLECT_EVERY_S):
            # Records stay in the mailbox until they are collected; a slow reply loses none.
            with contextlib.suppress(GetTimeoutError, RayActorError):
                collect()

    thread = threading.Thread(target=watch, name="raydc-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        # What was published since the last collection.
        with contextlib.suppress(GetTimeoutError, RayActorError):
            collect()
