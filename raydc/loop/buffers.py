"""Buffers that a forward pass changes, such as the statistics of batch normalisation.

Runs in each worker. Each logical shard starts from the values at the start of the step. At the end
the buffers move by the mean of the shards' changes. So they do not depend on who computed which
shard, and a buffer that never changes keeps its value to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydc.models.network_parts import Network


class ShardBuffers:
    """The changing buffers of a network.

    Does nothing for a step of a single shard, whose forward pass may change the buffers in place.

    Args:
        network: Network whose buffers are tracked. Its input layer holds constants only.
        num_shards: Logical shards of a step.

    Attributes:
        changes: Tensors of the shapes and types that `collect` returns.
    """

    def __init__(self, network: Network, num_shards: int) -> None:
        # A flag has no mean, and the constants of the input layer never change, nor do statistics
        # of frozen layers.
        kept = {id(buffer) for layer in network.kept_layers for buffer in layer.buffers(False)}
        found = [
            name
            for name, buffer in network.named_buffers()
            if not name.startswith("input.")
            and buffer.dtype != torch.bool
            and id(buffer) not in kept
        ]
        # By owner and name: a forward pass may put a new tensor in the place of a buffer
        # (`self.count = self.count + 1`), and then the first tensor is not part of the state.
        self._places = [
            (network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for name in (found if num_shards > 1 else [])
        ]
        self._start = [buffer.clone() for buffer in self._buffers()]
        self.changes = [torch.zeros_like(buffer, dtype=torch.float32) for buffer in self._start]

    def _buffers(self) -> list[Tensor]:
        return [getattr(owner, name) for owner, name in self._places]

    def start_step(self) -> None:
        """Notes the values from which all shards of the step start."""
        if self._places:
            torch._foreach_copy_(self._start, self._buffers())

    def restore(self) -> None:
        """Sets the buffers back to the start of the step, before the next shard."""
        if self._places:
            torch._foreach_copy_(self._buffers(), self._start)

    def collect(self) -> list[Tensor]:
        """Changes that the last shard made, float32."""
        if not self._places:
            return []
        return [change.float() for change in torch._foreach_sub(self._buffers(), self._start)]

    def finish_step(self, sums: Sequence[Tensor], num_shards: int) -> None:
        """Moves the buffers by the mean change of the step.

        Args:
            sums: Changes as `collect` returns them, summed over all shards.
            num_shards: Number of shards that had rows.
        """
        for buffer, start, total in zip(self._buffers(), self._start, sums, strict=True):
            change = total / num_shards
            # A counter of batches is an integer: all shards add one, and so does the mean.
            buffer.copy_(start + (change if buffer.is_floating_point() else change.round()))
