"""Buffers that a forward pass changes, over the shards of a step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raydc.features import Signature
from raydc.loop.buffers import ShardBuffers
from raydc.models.network_parts import Input, Network

SIGNATURE = Signature("vector", (1,), "float32", (), (), "regression")


class RunningSum(nn.Module):
    """Adds up its inputs: in place, or in a new tensor that takes the place of the buffer."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.total += x.sum()
        else:
            self.total = self.total + x.sum()
        return x


@pytest.mark.parametrize("in_place", [True, False])
def test_every_shard_starts_from_the_values_of_the_step(in_place: bool) -> None:
    """A buffer that is replaced is restored as well; otherwise a worker's shards would add up."""
    network = Network(Input(SIGNATURE), RunningSum(in_place))
    buffers = ShardBuffers(network, 2)
    for step in range(2):
        before = network.state_dict()["body.total"].clone()
        buffers.start_step()
        sums = torch.zeros(())
        for value in (1.0, 5.0):
            buffers.restore()
            assert torch.equal(network.state_dict()["body.total"], before)
            network(torch.full((1, 1), value))
            (change,) = buffers.collect()
            assert change == value
            sums += change
        buffers.finish_step([sums], 2)
        assert network.state_dict()["body.total"] == 3.0 * (step + 1)
