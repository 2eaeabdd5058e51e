"""The normalisation and the size of images that come with weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from signatures import COLOUR, GREY, TABLE, make_rows
from torch import nn

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models import description
from raydc.spec.data import Data
from raydc.spec.model import Cnn, Mlp, Torchvision
from raydc.spec.model_section import Normalisation

IMAGENET = Normalisation(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Stands in for what torchvision would download of resnet18."""
    from torchvision import models as zoo

    state = zoo.get_model("resnet18").state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: dict(state)
    )
    return dict(state)


@pytest.mark.parametrize("signature", [COLOUR, GREY], ids=["colour", "grey"])
def test_named_weights_see_images_as_torchvision_does(
    random_weights: dict[str, torch.Tensor], signature: Signature
) -> None:
    from torchvision.models import ResNet18_Weights, resnet18
    from torchvision.transforms.v2 import functional

    network = models.build(Torchvision(name="resnet18", weights="DEFAULT"), signature, 0).eval()
    plain = resnet18()
    plain.load_state_dict(random_weights)
    plain.fc = network.body.fc
    rows = make_rows(signature)
    images = functional.resize(rows.float() / 255, [224, 224], antialias=True)
    transforms = ResNet18_Weights.DEFAULT.transforms()
    x = functional.normalize(images.expand(-1, 3, -1, -1), transforms.mean, transforms.std)
    assert torch.allclose(network(rows), plain.eval()(x), atol=1e-4)


@pytest.mark.parametrize("signature", [COLOUR, GREY], ids=["colour", "grey"])
def test_normalisation_and_size_travel_with_the_state(
    random_weights: dict[str, torch.Tensor], signature: Signature
) -> None:
    """As in a bundle and a checkpoint: the network is built without weights, then loaded."""
    section = Torchvision(name="resnet18", weights="DEFAULT")
    network = models.build(section, signature, 0).eval()
    loaded = models.build(section.without_weights(), signature, 5).eval()
    loaded.load_state_dict(network.state_dict())
    rows = make_rows(signature)
    assert loaded.input.side == 224
    assert torch.equal(loaded(rows), network(rows))
    # A check builds the same network without the download.
    checked = models.build(section, signature, 0, downloads=False)
    assert checked.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(checked.input.mean, network.input.mean)


@pytest.mark.usefixtures("random_weights")
@pytest.mark.parametrize("signature", [COLOUR, GREY], ids=["colour", "grey"])
def test_state_of_before_weights_brought_their_size_goes_on_as_it_was_trained(
    signature: Signature,
) -> None:
    """A run of an older raydc, with the size and the normalisation of its data, is resumed."""
    section = Torchvision(name="resnet18", weights="DEFAULT")
    older = models.build(section.without_weights(), signature, 5).eval()
    resumed = models.build(section, signature, 0).eval()
    resumed.load_state_dict(older.state_dict())
    rows = make_rows(signature)
    assert torch.equal(resumed(rows), older(rows))
    assert resumed.state_dict().keys() == older.state_dict().keys()


def test_state_of_a_network_without_weights_is_as_before() -> None:
    names = models.build(Torchvision(name="resnet18"), GREY, 0).input.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in names.items()} == {
        "mean": (1, 1, 1),
        "scale": (1, 1, 1),
    }


@pytest.mark.usefixtures("random_weights")
def test_spec_overrides_what_the_weights_bring() -> None:
    section = Torchvision(name="resnet18", weights="DEFAULT", input_size=64, normalisation="data")
    first = models.build(section, COLOUR, 0).input
    assert first.side == 64
    assert first.mean.flatten().tolist() == pytest.approx(COLOUR.mean)
    named = Torchvision(
        name="resnet18", weights="DEFAULT", normalisation=Normalisation(mean=[0.1], std=[0.5])
    )
    first = models.build(named, COLOUR, 0).input
    assert first.mean.flatten().tolist() == pytest.approx([25.5])
    assert first.scale.flatten().tolist() == pytest.approx([127.5])


def test_model_of_raydc_brings_its_normalisation(tmp_path: Path) -> None:
    other = Signature(**{**vars(COLOUR), "mean": (1.0, 2.0, 3.0), "scale": (4.0, 5.0, 6.0)})
    path = str(tmp_path / "model.safetensors")
    trained = models.build(Cnn(name="cnn"), other, 3)
    safetensors.torch.save_file(
        {name: t.contiguous().clone() for name, t in trained.state_dict().items()}, path
    )
    rows = make_rows(COLOUR)
    network = models.build(Cnn(name="cnn", weights=path), COLOUR, 0)
    assert torch.equal(network(rows), trained(rows))
    by_data = models.build(Cnn(name="cnn", weights=path, normalisation="data"), COLOUR, 0)
    assert by_data.input.mean.flatten().tolist() == pytest.approx(COLOUR.mean)


def test_normalisation_of_the_spec_is_used_without_weights() -> None:
    network = models.build(Torchvision(name="resnet18", normalisation=IMAGENET), GREY, 0)
    x = network.input(torch.full((1, *GREY.shape), 255, dtype=torch.uint8))
    expected = [(1 - m) / s for m, s in zip(IMAGENET.mean, IMAGENET.std, strict=True)]
    assert x.amax((0, 2, 3)).tolist() == pytest.approx(expected)
    for model, signature, message in (
        (Mlp(name="mlp", normalisation=IMAGENET), TABLE, "it is for images"),
        (Cnn(name="cnn", normalisation=IMAGENET), GREY, "numbers for 3 channels, and .* have 1"),
    ):
        with pytest.raises(SpecError, match=message):
            models.build(model, signature, 0)


def test_file_without_a_normalisation_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "resnet.safetensors")
    network = models.build(Torchvision(name="resnet18"), COLOUR, 0)
    body: nn.Module = network.body
    safetensors.torch.save_file({n: t.contiguous() for n, t in body.state_dict().items()}, path)
    section = Torchvision(name="resnet18", weights=path)
    assert "model.normalisation takes the mean and std" in models.build(section, COLOUR, 0).notes[1]
    told = section.model_copy(update={"normalisation": IMAGENET})
    assert len(models.build(told, COLOUR, 0).notes) == 1


def test_describe_names_what_trains_and_what_contradicts() -> None:
    data: dict[str, Any] = {
        "source": "images",
        "classes": ["a", "b", "c"],
        "features": {"scale": "min_max", "image_size": [64, 64]},
    }
    section = Torchvision(name="resnet18", weights="DEFAULT", freeze=["body"])
    lines = description.describe_early(section, Data.model_validate(data))
    trained = 513 * 3
    assert lines[0] == (
        f"trains {trained:,} of 11,178,051 parameters with 3 classes: body.fc.weight, body.fc.bias"
    )
    assert "data.features.scale: min_max is not used" in lines[2]
    assert "image_size 64x64 are resized to 224x224" in lines[3]
    network = models.build(section, COLOUR, 0, downloads=False)
    plain = Data.model_validate({"source": "images"})
    assert len(description.describe(section, network, plain)) == 2
    assert description.describe_early(Torchvision(name="resnet18"), plain) == []
    assert description.describe_early(Mlp(name="mlp", depth=1, freeze=["body"]), plain) == [
        "trains body.3.weight, body.3.bias; the others are frozen",
        "layers before body.3 are computed once, and their outputs kept with the data set",
    ]


@pytest.mark.parametrize(
    ("data", "caches", "reason"),
    [
        ({"augment": {"horizontal_flip": True}}, True, "data.augment changes the rows"),
        ({}, False, "train.cache_frozen is false"),
    ],
)
def test_describe_says_why_frozen_layers_are_computed_again(
    data: dict[str, Any], caches: bool, reason: str
) -> None:
    section = Cnn(name="cnn", freeze=["body"])
    given = Data.model_validate({"source": "images", **data})
    lines = description.describe_early(section, given, caches)
    assert f"frozen layers are computed in each epoch: {reason}" in lines[1]
