"""Networks of torchvision."""

from __future__ import annotations

import pytest
import torch
from signatures import COLOUR, GREY, TABLE, TINY, make_rows

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models import torchvision_models
from raydc.spec.model import Torchvision


@pytest.mark.parametrize(
    ("name", "signature", "side"),
    [
        ("resnet18", GREY, None),
        ("resnet18", COLOUR, None),
        ("alexnet", GREY, 64),
        ("squeezenet1_0", TINY, 32),
    ],
)
def test_build_enlarges_images_that_are_too_small(
    name: str, signature: Signature, side: int | None
) -> None:
    network = models.build(Torchvision(name=name), signature, 0)
    assert network.input.side == side
    assert network(make_rows(signature, 2)).shape == (2, signature.num_outputs)


def test_build_refuses_unknown_models_and_arguments() -> None:
    with pytest.raises(
        SpecError, match=r"model\.name: no model 'resnet81'; did you mean .*resnet18"
    ):
        models.build(Torchvision(name="resnet81"), GREY, 0)
    with pytest.raises(SpecError, match="unexpected keyword argument 'depth'"):
        models.build(Torchvision(name="resnet18", arguments={"depth": 3}), GREY, 0)
    with pytest.raises(SpecError, match="resnet18 takes images"):
        models.build(Torchvision(name="resnet18"), TABLE, 0)


def test_replace_head_finds_the_last_layer() -> None:
    from torchvision.models import resnet18, squeezenet1_0

    body = resnet18()
    torchvision_models.replace_head(body, 1000, 4)
    assert body.fc.out_features == 4
    body = squeezenet1_0()
    torchvision_models.replace_head(body, 1000, 4)
    assert body.classifier[1].out_channels == 4


@pytest.mark.parametrize(("name", "num_auxiliary"), [("googlenet", 2), ("inception_v3", 1)])
def test_pretrained_network_equals_the_one_built_without_weights(
    monkeypatch: pytest.MonkeyPatch, name: str, num_auxiliary: int
) -> None:
    from torchvision import models as zoo

    original = zoo.get_model(name, aux_logits=True, init_weights=False).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: dict(original)
    )
    section = Torchvision(name=name, weights="DEFAULT", arguments={"init_weights": False})
    pretrained = models.build(section, COLOUR, 0)
    plain = models.build(section.without_weights(), COLOUR, 0)
    auxiliary = {key.partition(".")[0] for key in original if key.lower().startswith("aux")}
    assert len(auxiliary) == num_auxiliary
    # As a bundle does: its network is built without weights and then loaded.
    plain.load_state_dict(pretrained.state_dict())
    assert torch.equal(plain.state_dict()["body.fc.bias"], pretrained.body.fc.bias)
    assert plain.body.transform_input is pretrained.body.transform_input is False
    assert plain.body.aux_logits is pretrained.body.aux_logits is False


def test_build_refuses_auxiliary_outputs() -> None:
    section = Torchvision(name="googlenet", arguments={"aux_logits": True})
    with pytest.raises(SpecError, match="aux_logits would give the network several outputs"):
        models.build(section, COLOUR, 0)
