"""Ray Data settings for work with a model: rows in their order, and a pool of processes.

Used by the driver of an evaluation or a batch prediction.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from raydc.data import tasks
from raydc.spec.sections import Spec

# A process takes seconds to start and to load the model; that is worth it for this many batches.
_BATCHES_PER_PROCESS = 8


@contextlib.contextmanager
def preserve_order() -> Iterator[None]:
    """Makes Ray Data return rows in their order inside the block, whichever process is faster."""
    from ray.data import DataContext

    options = DataContext.get_current().execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        with tasks.quiet_ray_data(), warnings.catch_warnings():
            # `max_restarts` in `pool_options` can only be given as a deprecated argument.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            yield
    finally:
        options.preserve_order = before


def choose_device(spec: Spec) -> str:
    """The device of a process: "cuda" if the spec and the cluster allow it, else "cpu"."""
    import ray

    return "cuda" if spec.scaling.use_gpu and ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def pool_options(spec: Spec, num_batches: int) -> dict[str, Any]:
    """Options of `Dataset.map_batches`: as many processes as are worth it, one per CPU or GPU.

    Args:
        spec: Spec of the model; `scaling.use_gpu` allows a GPU per process.
        num_batches: Approximate number of batches of the data set.
    """
    import ray

    unit = "GPU" if choose_device(spec) == "cuda" else "CPU"
    most = int(ray.cluster_resources().get(unit, 1))
    size = max(1, min(most, num_batches // _BATCHES_PER_PROCESS))
    options: dict[str, Any] = {"num_gpus": 1} if unit == "GPU" else {"num_cpus": 1}
    if len(ray.nodes()) == 1:
        # On one node nothing but the process itself can be lost, and Ray warns of every actor that
        # may restart.
        options["max_restarts"] = 0
    return {"compute": ray.data.ActorPoolStrategy(min_size=1, max_size=size), **options}
