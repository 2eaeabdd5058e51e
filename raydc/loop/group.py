"""The group of workers of a run, as one of them sees it. Runs in each worker."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raydc.errors import first_line
from raydc.loop.lost_peer import PeerLostError

# The size that DistributedDataParallel uses. On CPUs, buckets of 1 MiB cost an MLP a fifth of its
# speed; 4 MiB was no better than 25 MiB.
BUCKET_BYTES = 25 << 20

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """The place of one worker among all workers.

    Attributes:
        rank: Number of this worker, from 0.
        world_size: Number of workers that train together.
        device: Device on which this worker computes.
    """

    rank: int
    world_size: int
    device: torch.device


class Group(Protocol):
    """The collective operations of a run. Every rank calls them in the same order.

    Attributes:
        world: The place of this worker.
        bucket_bytes: Maximum bytes of gradients that travel together.
    """

    world: World
    bucket_bytes: int

    def sum_(self, flat: Tensor) -> None:
        """Replaces a tensor by its sum over all workers, added in any order."""

    def exchange(
        self, received: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> None:
        """Sends a part of a flat tensor to each rank and receives a part from each.

        Args:
            received: Filled with the parts of all ranks, in the order of the ranks.
            sent: The parts for all ranks, in the order of the ranks.
            sizes_in: Number of elements received from each rank.
            sizes_out: Number of elements sent to each rank.
        """

    def gather(self, whole: Tensor, parts: Tensor) -> None:
        """Collects the first row of every rank's `parts` in `whole`, in the order of the ranks.

        Args:
            whole: Flat; filled with one row of each rank.
            parts: [world_size, N]. Only the first row counts, the others are scratch space.
        """

    def broadcast(self, numbers: Sequence[int]) -> list[int]:
        """Returns the numbers of rank 0 on every rank. All ranks pass equally many."""

    def members(self) -> list[tuple[str, int]]:
        """Host name and process id of each rank."""


class Alone:
    """A group of one worker, this process.

    Args:
        device: Device on which the only worker computes.
    """

    bucket_bytes = BUCKET_BYTES

    def __init__(self, device: torch.device = _CPU) -> None:
        self.world = World(0, 1, device)

    def sum_(self, flat: Tensor) -> None:
        """Does nothing: the sum over one worker is its own tensor."""

    def exchange(
        self, received: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> None:
        """Copies the only part.

        Args:
            received: Filled with the only part.
            sent: The only part, which this worker sends to itself.
            sizes_in: Number of elements of the part, in a list of one.
            sizes_out: Number of elements of the part, equal to `sizes_in`.
        """
        received[: sizes_in[0]].copy_(sent[: sizes_out[0]])

    def gather(self, whole: Tensor, parts: Tensor) -> None:
        """Copies the only row."""
        whole.copy_(parts[0])

    def broadcast(self, numbers: Sequence[int]) -> list[int]:
        """Returns the numbers of this process, which is rank 0."""
        return list(numbers)

    def members(self) -> list[tuple[str, int]]:
        """Host name and process id of this process."""
        return [_this_process()]


class Workers:
    """The default process group of torch.distributed, which must be initialised.

    Args:
        device: Device on which this worker holds the tensors that are exchanged.
        bucket_bytes: Maximum bytes of gradients that travel together.
    """

    def __init__(self, device: torch.device, bucket_bytes: int = BUCKET_BYTES) -> None:
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.world = World(rank, world_size, device)
        self.bucket_bytes = bucket_bytes

    def sum_(self, flat: Tensor) -> None:
        """Runs an all-reduce. Raises PeerLostError."""
        with peers():
            torch.distributed.all_reduce(flat)

    def exchange(
        self, received: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> None:
        """Runs an all-to-all.

        Args:
            received: Filled with the parts of all ranks, in the order of the ranks.
            sent: The parts for all ranks, in the order of the ranks.
            sizes_in: Number of elements received from each rank.
            sizes_out: Number of elements sent to each rank.

        Raises:
            PeerLostError: Another worker is gone or hangs.
        """
        with peers():
            torch.distributed.all_to_all_single(received, sent, sizes_in, sizes_out)

    def gather(self, whole: Tensor, parts: Tensor) -> None:
        """Runs an all-gather. Raises PeerLostError."""
        with peers():
            if self.world.device.type != "cpu":
                torch.distributed.all_gather_into_tensor(whole, parts[0])
                return
            # Gloo's all-gather allocates memory in each call. An all-to-all of copies of the row
            # gives the same result twice as fast on large tensors.
            parts[1:].copy_(parts[0])
            torch.distributed.all_to_all_single(whole, parts.view(-1))

    def broadcast(self, numbers: Sequence[int]) -> list[int]:
        """Returns the numbers of rank 0 on every rank. Raises PeerLostError."""
        values = torch.tensor(numbers, dtype=torch.int64, device=self.world.device)
        with peers():
            torch.distributed.broadcast(values, src=0)
        return [int(value) for value in values.tolist()]

    def members(self) -> list[tuple[str, int]]:
        """Host name and process id of each rank. Raises PeerLostError."""
        found: list[tuple[str, int]] = [("", 0)] * self.world.world_size
        with peers():
            # Pickles, but only between the processes of one job, which run the same code anyway.
            torch.distributed.all_gather_object(found, _this_process())
        return found


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Raises PeerLostError if a collective operation inside fails."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"lost the other workers: {first_line(error)}") from error


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()
