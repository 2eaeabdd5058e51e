"""Buffers that a forward pass changes (statistics of batch normalisation), over the logical shards of a step.

Each shard starts from the values at the start of the step. In the end they move by the mean of the shards' changes, so
that they do not depend on who computed which shard, and a buffer that never changes stays as it is to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydc.models.networks import Network


class ShardBuffers:
    """The buffers of a network. Nothing is done for a step of one shard, which changes them as it goes.

    Args:
        network: Its input layer has constants only.
        num_shards: Logical shards of a step.
    """

    def __init__(self, network: Network, num_shards: int) -> None:
        found = [
            b
            for name, b in network.named_buffers()
            if not name.startswith("input.") and b.dtype != torch.bool
        ]
        self._buffers = found if num_shards > 1 else []
        self._start = [buffer.clone() for buffer in self._buffers]
        self.changes = [torch.zeros_like(buffer, dtype=torch.float32) for buffer in self._buffers]
        """Examples of what `collect` gives."""

    def begin(self) -> None:
        """Notes where all shards start from."""
        if self._buffers:
            torch._foreach_copy_(self._start, self._buffers)

    def restore(self) -> None:
        """The next shard starts where all start."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._start)

    def collect(self) -> list[Tensor]:
        """What a shard has changed, float32."""
        if not self._buffers:
            return []
        return [change.float() for change in torch._foreach_sub(self._buffers, self._start)]

    def finish(self, sums: Sequence[Tensor], num_shards: int) -> None:
        """A step is over.

        Args:
            sums: Of what `collect` gave, over all shards.
            num_shards: How many of them had rows.
        """
        for buffer, start, total in zip(self._buffers, self._start, sums, strict=True):
            change = total / num_shards
            buffer.copy_(start + (change if buffer.is_floating_point() else change.round()))
