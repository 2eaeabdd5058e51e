"""Section `model`: the network that a spec names."""

from __future__ import annotations

import pytest

from raydc.spec.model import Builder, Cnn, Linear, Mlp, ModelSection, Torchvision


def test_without_weights_of_torchvision_keeps_all_other_fields() -> None:
    section = Torchvision(name="resnet18", weights="DEFAULT", arguments={"zero_init": True})
    plain = Torchvision(name="resnet18", arguments={"zero_init": True})
    assert section.without_weights() == plain
    assert section.weights == "DEFAULT"


@pytest.mark.parametrize(
    "section",
    [Linear(name="linear"), Mlp(name="mlp"), Cnn(name="cnn"), Builder(builder="package:function")],
)
def test_without_weights_of_networks_with_none_changes_nothing(section: ModelSection) -> None:
    assert section.without_weights() == section
