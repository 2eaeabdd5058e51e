"""The workers of a run, as seen from one of them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from raydc.errors import first_line

_MEMBER_BYTES = 80


class PeerLostError(RuntimeError):
    """A collective operation failed: another worker is gone or hangs. Says nothing about this one."""


class Group(Protocol):
    """The workers of a run, as seen from one of them."""

    rank: int
    world_size: int

    def sum_(self, flat: Tensor) -> None:
        """Replaces a tensor with its sum over all workers, added in any order."""

    def exchange(
        self, received: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> None:
        """Gives each rank its part of a flat tensor, and takes one from each: the sizes are by rank."""

    def gather(self, whole: Tensor, parts: Tensor) -> None:
        """Gives each rank the first row of every rank's `parts`, by rank; the other rows are room to work in."""

    def broadcast(self, number: int) -> int:
        """The number that rank 0 gives."""


class Alone:
    """One worker, this process."""

    rank = 0
    world_size = 1

    def sum_(self, flat: Tensor) -> None:
        """The sum over one worker is there already."""

    def exchange(
        self, received: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> None:
        """The only part stays here."""
        received.copy_(sent)

    def gather(self, whole: Tensor, parts: Tensor) -> None:
        """There is one row."""
        whole.copy_(parts[0])

    def broadcast(self, number: int) -> int:
        """Rank 0 is this one."""
        return number


class Workers:
    """The default group of torch.distributed, which must be up."""

    def __init__(self, device: torch.device) -> None:
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self._device = device

    def sum_(self, flat: Tensor) -> None:
        """All-reduce. Raises PeerLostError."""
        with peers():
            torch.distributed.all_reduce(flat)

    def exchange(
        self, received: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> None:
        """All-to-all. Raises PeerLostError."""
        with peers():
            torch.distributed.all_to_all_single(received, sent, sizes_in, sizes_out)

    def gather(self, whole: Tensor, parts: Tensor) -> None:
        """All-gather. Raises PeerLostError."""
        with peers():
            if self._device.type != "cpu":
                torch.distributed.all_gather_into_tensor(whole, parts[0])
                return
            # Gloo's all-gather works in fresh memory each time; on large tensors this is twice as fast.
            parts[1:].copy_(parts[0])
            torch.distributed.all_to_all_single(whole, parts.view(-1))

    def broadcast(self, number: int) -> int:
        """Raises PeerLostError."""
        value = torch.tensor([number], dtype=torch.int64, device=self._device)
        with peers():
            torch.distributed.broadcast(value, src=0)
        return int(value.item())


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Names what went wrong in a collective operation: raises PeerLostError for RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"lost the other workers: {first_line(error)}") from error


def members(group: Group, device: torch.device) -> list[tuple[str, int]]:
    """Host name and process id of each rank; every rank must call it.

    Each fills its row of a table of zeros; the sum is the whole table.
    """
    name = f"{os.getpid()}@{socket.gethostname()}".encode()[:_MEMBER_BYTES]
    table = torch.zeros(group.world_size, _MEMBER_BYTES, dtype=torch.int32, device=device)
    table[group.rank, : len(name)] = torch.tensor(list(name), dtype=torch.int32)
    group.sum_(table)
    names = [
        bytes(row).rstrip(b"\0").decode(errors="replace").partition("@") for row in table.tolist()
    ]
    return [(host, int(pid)) for pid, _, host in names]
