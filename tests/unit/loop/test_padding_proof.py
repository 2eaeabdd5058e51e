"""The proof that a user's network takes no padding for tokens or steps."""

from __future__ import annotations

from typing import Any

import pytest
from records import record_features
from torch import Tensor, nn

from raydc import models
from raydc.errors import SpecError
from raydc.features.record import LENGTH
from raydc.loop.padding_proof import prove_padding
from raydc.models.network_parts import Network, RecordInput
from raydc.spec.model import Linear, Recurrent

SIGNATURE = record_features().signature


class _Mean(nn.Module):
    """A mean of the series over all items, or over the real ones."""

    def __init__(self, is_masked: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.is_masked = is_masked

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        total = inputs["series"].sum(dim=1)
        items = inputs["series" + LENGTH][:, None] if self.is_masked else inputs["series"].shape[1]
        return self.layer(total / items)  # type: ignore[no-any-return]


def test_a_network_that_counts_padding_is_refused() -> None:
    network = Network(RecordInput(SIGNATURE), _Mean(is_masked=False))
    with pytest.raises(SpecError, match=r"own:make: the outputs depend on the padding of series"):
        prove_padding(network, SIGNATURE, "own:make")


def test_networks_that_mask_are_taken() -> None:
    prove_padding(Network(RecordInput(SIGNATURE), _Mean(is_masked=True)), SIGNATURE, "own:make")
    for model in (Linear(name="linear"), Recurrent(name="gru", width=4)):
        prove_padding(models.build(model, SIGNATURE, 0), SIGNATURE, "own:make")
