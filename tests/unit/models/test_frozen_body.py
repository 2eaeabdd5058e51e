"""Where a network with frozen layers is cut, and where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from signatures import COLOUR, TABLE, TINY, make_rows
from torch import Tensor, nn

from raydc import models
from raydc.features import Signature
from raydc.models import frozen_body
from raydc.models.frozen_body import FrozenBody
from raydc.models.network_parts import Input, Network
from raydc.spec.model import Builder, Cnn, Mlp, Torchvision

CNN: dict[str, Any] = {"name": "cnn", "channels": [4, 8], "batch_norm": True, "hidden": 6}
ATTENTION = Builder(builder="exact_models:transformer", arguments={"dropout": 0.0}, freeze=["body"])


def names_of(network: Network, body: FrozenBody) -> list[str]:
    return [name for name, module in network.named_modules() if module in body.tail]


@pytest.mark.parametrize(
    ("model", "signature", "first"),
    [
        (Torchvision(name="resnet18", freeze=["body"]), COLOUR, "body.fc"),
        (Torchvision(name="resnet18", freeze=["conv1", "bn1", "layer1"]), COLOUR, None),
        (Torchvision(name="mobilenet_v3_small", freeze=["features"]), COLOUR, "body.classifier"),
        # Its attention takes another way in evaluation, with other last bits.
        (ATTENTION, TINY, "body.head"),
        (Cnn(**CNN, freeze=["body"]), TINY, "body.11"),
        # The dropout draws, so the frozen layer behind it is computed in each epoch.
        (Mlp(name="mlp", hidden=[32, 4], dropout=0.5, freeze=["body"]), TABLE, "body.3"),
        (Cnn(**CNN, freeze=["0"]), TINY, "body.1"),
    ],
)
def test_cut_is_before_the_first_layer_that_trains_or_draws(
    model: Any, signature: Signature, first: str | None
) -> None:
    network = models.build(model, signature, 0)
    x = make_rows(signature, 9)
    if first is None:
        # Three parts of a ResNet train, so it is not a sequence any more.
        assert frozen_body.cut(network, x, False) == (
            "the network does not go on from body.layer2.0.conv1 as a sequence of layers"
        )
        return
    body = frozen_body.cut(network, x, False)
    assert isinstance(body, FrozenBody), body
    assert names_of(network, body)[0].startswith(first)
    assert network.training
    # The body computes alike in training; the layers behind it train.
    assert all(layer.training for layer in body.tail)
    assert not network.body.get_submodule("0" if first[-1].isdigit() else "").training
    network.eval()
    assert torch.allclose(body.finish(body.outputs(x)), network(x), rtol=1e-3, atol=1e-4)
    # The same bits at every place of a block, and as part of any number of rows.
    whole = body.outputs(x)
    for start, stop in ((0, 1), (3, 8), (8, 9)):
        assert torch.equal(body.outputs(x[start:stop]), whole[start:stop])


class _Body(nn.Module):
    """Frozen layers, a head, and something that no search for layers would find."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.front = nn.Linear(5, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.front(x)
        if self.kind == "draws":
            features = nn.functional.dropout(features, 0.5, self.training)
        if self.kind == "changes" and self.training:
            features = features + 1
        if self.kind == "depends":
            features = features - features.mean(0)
        if self.kind == "goes on":
            return self.head(features) * 2
        if self.kind == "two inputs":
            return self.head(features) if features.sum() > 1e9 else features[:, :2] * self.head.bias
        return self.head(features)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("plain", None),
        ("draws", "it draws random numbers"),
        ("depends", "its outputs depend on the rows beside a row"),
        ("changes", "it computes different outputs while the network trains"),
        ("goes on", "the network goes on behind its last layer"),
        ("two inputs", "the layers behind it do not take exactly one tensor"),
    ],
)
def test_cut_refuses_what_it_cannot_compute_once(kind: str, message: str | None) -> None:
    network = Network(Input(TABLE), _Body(kind))
    found = frozen_body.cut(network, make_rows(TABLE, 9), False)
    assert isinstance(found, FrozenBody) if message is None else found == message


def test_nothing_frozen_before_the_head_is_named() -> None:
    network = models.build(Mlp(name="mlp", hidden=[4], freeze=["3"]), TABLE, 0)
    assert frozen_body.why_no_cut(network) == (
        "body.1 trains, and most frozen layers do not come before it"
    )
    stochastic = models.build(Torchvision(name="efficientnet_b0", freeze=["body"]), COLOUR, 0)
    assert "draws random numbers" in str(frozen_body.why_no_cut(stochastic))


def test_every_pass_through_the_body_has_the_same_number_of_rows() -> None:
    network = models.build(Mlp(name="mlp", hidden=[32], freeze=["body"]), TABLE, 0)
    body = frozen_body.cut(network, make_rows(TABLE, 9), False)
    assert isinstance(body, FrozenBody)
    seen: list[int] = []
    network.body.get_submodule("1").register_forward_hook(
        lambda _, given, __: seen.append(len(given[0]))
    )
    for num_rows in (1, 7, 8, 19):
        assert len(body.outputs(make_rows(TABLE, num_rows))) == num_rows
    assert set(seen) == {body.block_rows}
