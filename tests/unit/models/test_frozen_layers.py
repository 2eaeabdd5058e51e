"""Layers that training leaves as they are."""

from __future__ import annotations

import pytest
from signatures import COLOUR, TINY
from torch import nn

from raydc import models
from raydc.errors import SpecError
from raydc.models import frozen_layers
from raydc.models.parameter_names import head_names, matches
from raydc.spec.model import Cnn, Mlp, Torchvision


def trained_names(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("layer1", "body.layer1.0.conv1.weight", True),
        ("body.layer1", "body.layer1.0.conv1.weight", True),
        ("layer1", "body.layer10.weight", False),
        ("*.bias", "body.fc.bias", True),
        ("fc.bias", "body.fc.bias", True),
        ("conv1", "body.layer1.0.conv1.weight", False),
        ("*.conv1", "body.layer1.0.conv1.weight", True),
        ("features.[01]", "body.features.1.weight", True),
    ],
)
def test_pattern_names_weights_and_modules(pattern: str, name: str, expected: bool) -> None:
    assert matches(name, pattern) == expected


def test_body_is_all_layers_but_the_last() -> None:
    network = models.build(Torchvision(name="resnet18", freeze=["body"]), COLOUR, 0)
    assert trained_names(network) == {"body.fc.weight", "body.fc.bias"} == head_names(network)
    trained, everything = frozen_layers.count_trained(network)
    assert trained == 513 * COLOUR.num_outputs
    assert everything == sum(parameter.numel() for parameter in network.parameters())
    # A short form in the file; the same list in the resolved spec.
    assert Mlp.model_validate({"name": "mlp", "freeze": "body"}).freeze == ["body"]


def test_batch_norm_of_frozen_layers_stays_in_evaluation_mode() -> None:
    section = Torchvision(name="resnet18", freeze=["conv1", "bn1", "layer1", "layer2.*.weight"])
    network = models.build(section, COLOUR, 0)
    for _ in range(2):
        network.eval()
        network.train()
        modes = {name: layer.training for name, layer in network.body.named_modules()}
        assert not modes["bn1"]
        assert not modes["layer1.1.bn2"]
        # Frozen in part: its statistics still move.
        assert modes["layer2.0.bn1"]
        assert modes["layer4.0.bn1"]
        assert modes["layer1"]


def test_freeze_refuses_what_names_nothing_and_what_leaves_nothing() -> None:
    with pytest.raises(
        SpecError,
        match=r"model\.freeze: 'layr1' names no weight of this network; "
        "did you mean layer1",
    ):
        models.build(Torchvision(name="resnet18", freeze=["layr1"]), COLOUR, 0)
    with pytest.raises(SpecError, match="no weight is left to train"):
        models.build(Cnn(name="cnn", freeze=["body", "*.weight", "*.bias"]), TINY, 0)
