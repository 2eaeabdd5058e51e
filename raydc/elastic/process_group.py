"""torch's process group of the workers, set up by the controller of Ray Train without torch.

Ray's own `TorchConfig` makes the controller import torch, before it starts the first worker: two
seconds of every run, and 250 MB as long as it lasts. The workers do the same as with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """What `TorchTrainer` takes as its `torch_config`.

    Attributes:
        backend: Backends by device, as `torch.distributed.init_process_group` takes them.
        timeout_s: How long a collective operation waits for the other workers.
    """

    backend: str
    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose instance Ray Train calls in the controller."""
        return ProcessGroupBackend

    @property
    def train_func_context(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """What Ray Train enters in the thread that trains, in each worker."""
        return on_own_device


class ProcessGroupBackend(Backend):  # type: ignore[misc]
    """Joins the workers of a group as soon as they have started.

    Workers end by being killed, so that nothing of a group has to be taken apart.
    """

    # NCCL connects GPUs of one node directly only if each worker sees those of the others.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Joins the workers.

        Args:
            worker_group: Ray Train's group, which runs functions on its workers.
            backend_config: Backends and timeout.

        Raises:
            ray.exceptions.RayError: A worker died, or did not reach the others in time.
        """
        host, port = worker_group.execute_single(0, find_address)
        size = len(worker_group)
        joining = [
            worker_group.execute_single_async(
                rank, join, backend_config.backend, rank, size, host, port, backend_config.timeout_s
            )
            for rank in range(size)
        ]
        ray.get(joining)


@contextlib.contextmanager
def on_own_device() -> Iterator[None]:
    """Makes the GPU of a worker the current one of its thread; without one, does nothing."""
    import torch
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    yield


def find_address() -> tuple[str, int]:
    """Address of this node and a port that is free there. Runs in the worker of rank 0."""
    host = str(ray.util.get_node_ip_address())
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as free:
        free.bind(("", 0))
        return host, int(free.getsockname()[1])


def join(backend: str, rank: int, size: int, host: str, port: int, timeout_s: int) -> None:
    """Joins the process group. Runs in each worker, in all of them at the same time.

    Args:
        backend: Backends by device.
        rank: Number of this worker, from 0.
        size: Number of workers.
        host: Address of rank 0.
        port: Port that rank 0 listens on from now on.
        timeout_s: How long this waits for the others, as each later operation does.
    """
    # The whole first: another thread may still import it, and who asks for a part does not wait.
    import torch
    import torch.distributed
    from ray.train.torch import get_device

    context = ray.train.get_context()
    # What `torchrun` sets too: code of users and libraries reads it.
    os.environ.update(
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
        ACCELERATE_TORCH_DEVICE=str(get_device()),
    )
    # A worker that waits for a lost one gets an error instead of waiting for ever.
    if "nccl" in backend and "TORCH_NCCL_BLOCKING_WAIT" not in os.environ:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    torch.distributed.init_process_group(
        backend,
        init_method="env://",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
