"""Ray Data settings for work with a model: rows in their order, and a pool of processes.

Used by the driver of an evaluation or a batch prediction.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raydc.data import small_jobs
from raydc.engine import internals
from raydc.errors import ClusterError, Say
from raydc.features import Features
from raydc.spec.sections import Spec

# Bytes of the inputs of one batch. The activations of a network need some tens of times as much.
_BATCH_BYTES = 8 * 1024 * 1024
# Rows of a table are computed in microseconds, others in milliseconds.
_MAX_TABLE_ROWS = 8192
_MAX_BATCH_ROWS = 1024
# A pool of processes starts and loads torch and the model for 10 seconds and more. In that time one
# process computes about so many bytes of a table.
_SMALL_BYTES = 64e6
# One CPU is for the tasks that read, so a pool on so many has one process. It is slower than this
# one, whatever it computes: predicting five million rows of 20 columns took 47 CPU seconds, not 28.
_CPUS_OF_ONE = 2
# A network computes longer on a byte of a picture or a text than a preparation does.
_WEIGHT = 8
# A process takes seconds to start and to load the model; that is worth it for this many batches.
_BATCHES_PER_PROCESS = 8
# Other jobs may end within minutes; an endpoint or a long training does not.
ROOM_TIMEOUT_S = 600.0
_POLL_S = 0.5


@contextlib.contextmanager
def preserve_order() -> Iterator[None]:
    """Makes Ray Data return rows in their order inside the block, whichever process is faster."""
    from ray.data import DataContext

    from raydc.data import ray_tasks

    options = DataContext.get_current().execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        with ray_tasks.quiet_ray_data(), warnings.catch_warnings():
            # `max_restarts` in `Pool.options` can only be given as a deprecated argument.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            yield
    finally:
        options.preserve_order = before


@dataclass(frozen=True)
class Pool:
    """The processes of a pool.

    Attributes:
        device: Device of each process, `cuda` or `cpu`.
        num_cpus: CPUs that each holds besides the one of the task that reads.
        max_size: Processes at most.
    """

    device: str
    num_cpus: int
    max_size: int

    def options(self) -> dict[str, Any]:
        """Options of `Dataset.map_batches`."""
        import ray

        amounts = {"num_gpus": 1} if self.device == "cuda" else {}
        options: dict[str, Any] = {"num_cpus": self.num_cpus, **amounts}
        if len(ray.nodes()) == 1:
            # On one node nothing but the process itself can be lost, and Ray warns of every actor
            # that may restart.
            options["max_restarts"] = 0
        strategy = ray.data.ActorPoolStrategy(min_size=1, max_size=self.max_size)
        return {"compute": strategy, **options}


def batch_rows(features: Features) -> int:
    """Rows of a batch, so that its inputs fit into some megabytes.

    Args:
        features: Features of the model.
    """
    signature = features.signature
    most = _MAX_TABLE_ROWS if signature.kind == "vector" else _MAX_BATCH_ROWS
    return max(1, min(most, _BATCH_BYTES // max(1, signature.row_bytes)))


def fits_here(spec: Spec, features: Features, num_bytes: float, num_batches: int) -> bool:
    """Whether this process does the work itself, sooner than a pool would start.

    GPUs are left to Ray, which knows who uses them.

    Args:
        spec: Spec of the model; `scaling.use_gpu` allows a GPU per process.
        features: Features of the model.
        num_bytes: Bytes of the rows.
        num_batches: Approximate number of batches of the data set.
    """
    small_bytes = small_jobs.small_bytes(math.inf if _has_one_process() else _SMALL_BYTES)
    weight = 1 if features.signature.kind == "vector" else _WEIGHT
    is_little = num_bytes * weight <= small_bytes
    # A pool for fewer batches would have one process, which would be no faster.
    is_for_one = is_little or num_batches < 2 * _BATCHES_PER_PROCESS
    if not small_bytes or not is_for_one:
        return False
    return not spec.scaling.use_gpu or not _has_gpu()


def _has_one_process() -> bool:
    """Whether a pool would have one process, now and later: a cluster may grow."""
    return small_jobs.num_cpus() <= _CPUS_OF_ONE and not _is_on_cluster()


def _is_on_cluster() -> bool:
    """Whether this process is connected to a Ray that it has not started."""
    # Not imported for this: whoever is connected has imported it.
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and not internals.is_own_ray()


def _has_gpu() -> bool:
    """Whether this machine or the connected Ray has a GPU."""
    import torch

    if torch.cuda.is_available():
        return True
    # Not imported for this: whoever is connected has imported it.
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and "GPU" in ray.cluster_resources()


def choose_pool(
    use_gpu: bool, num_batches: int, total: Mapping[str, float], free: Mapping[str, float]
) -> Pool | None:
    """Chooses as many processes as are worth it and as there is room for. Pure.

    The pool holds what it gets until the end, so one CPU always stays for the tasks that read:
    without it both would wait for each other. Where only one CPU is free, they share it.

    Args:
        use_gpu: Whether the processes may compute on GPUs.
        num_batches: Approximate number of batches of the data set.
        total: Resources of the cluster, by Ray's names.
        free: Resources that nothing holds, by Ray's names.

    Returns:
        The pool; None while there is no room for one.
    """
    device = "cuda" if use_gpu and total.get("GPU", 0.0) >= 1 else "cpu"
    free_cpus, free_gpus = int(free.get("CPU", 0.0)), int(free.get("GPU", 0.0))
    worth = max(1, num_batches // _BATCHES_PER_PROCESS)
    if free_cpus < 1 or (device == "cuda" and free_gpus < 1):
        return None
    if device == "cuda":
        return Pool(device, 0, min(free_gpus, worth))
    if free_cpus == 1:
        return Pool(device, 0, 1)
    return Pool(device, 1, min(free_cpus - 1, worth))


def wait_for_pool(spec: Spec, num_batches: int, what: str, say: Say) -> Pool:
    """Waits until there is room for a pool.

    Args:
        spec: Spec of the model; `scaling.use_gpu` allows a GPU per process.
        num_batches: Approximate number of batches of the data set.
        what: What waits, for the line that says so: `evaluate` or `predict`.
        say: Shows that line, once.

    Raises:
        ClusterError: There was no room for `ROOM_TIMEOUT_S`.
    """
    import ray

    deadline, is_said = time.monotonic() + ROOM_TIMEOUT_S, False
    while True:
        total, free = ray.cluster_resources(), ray.available_resources()
        pool = choose_pool(bool(spec.scaling.use_gpu), num_batches, total, free)
        if pool is not None:
            return pool
        names = [name for name in ("CPU", "GPU") if total.get(name)]
        amounts = ", ".join(f"{free.get(name, 0.0):g} of {total[name]:g} {name}" for name in names)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{what}: no room for it in {ROOM_TIMEOUT_S:.0f} s; free now: "
                f"{amounts or 'no CPU'}",
                "It needs a CPU, and a GPU where scaling.use_gpu is set. End other jobs or "
                "endpoints (raydc stop), or give --address of a larger cluster.",
            )
        if not is_said:
            say(f"{what:<10}waits for resources; free now: {amounts or 'no CPU'}")
            is_said = True
        time.sleep(_POLL_S)
