"""Networks by section of the spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models import networks
from raydc.spec.model import Builder, Cnn, Linear, Mlp, Torchvision

GREY = Signature(
    "image", (1, 28, 28), "uint8", (70.0,), (90.0,), "classification", tuple("0123456789")
)
TINY = Signature("image", (1, 8, 8), "uint8", (70.0,), (90.0,), "classification", ("a", "b"))
COLOUR = Signature(
    "image",
    (3, 32, 40),
    "uint8",
    (1.0, 2.0, 3.0),
    (4.0, 5.0, 6.0),
    "classification",
    ("a", "b", "c"),
)
TABLE = Signature("vector", (5,), "float32", (), (), "classification", ("a", "b"))
PRICE = Signature("vector", (5,), "float32", (), (), "regression")


def rows(signature: Signature, num_rows: int = 3) -> torch.Tensor:
    if signature.dtype == "uint8":
        return torch.randint(0, 256, (num_rows, *signature.shape), dtype=torch.uint8)
    return torch.randn(num_rows, *signature.shape)


@pytest.mark.parametrize(
    "signature", [GREY, TINY, COLOUR, TABLE, PRICE], ids=lambda s: f"{s.task}-{s.shape}"
)
@pytest.mark.parametrize(
    "model", [Linear(name="linear"), Mlp(name="mlp", depth=3, width=8), Cnn(name="cnn")]
)
def test_shapes(model: Any, signature: Signature) -> None:
    if isinstance(model, Cnn) and signature.kind == "vector":
        with pytest.raises(
            SpecError, match="cnn takes images, but the rows are vectors of 5 numbers"
        ):
            models.build(model, signature, 0)
        return
    outputs_BK = models.build(model, signature, 0)(rows(signature))
    assert outputs_BK.shape == (3, signature.num_outputs)
    assert outputs_BK.dtype == torch.float32


def test_input_normalises_per_channel() -> None:
    x = rows(COLOUR)
    first = models.Input(COLOUR, channels_last=True)
    mean, scale = (
        torch.tensor(COLOUR.mean).view(-1, 1, 1),
        torch.tensor(COLOUR.scale).view(-1, 1, 1),
    )
    torch.testing.assert_close(first(x), (x.float() - mean) / scale)
    assert first(x).is_contiguous(memory_format=torch.channels_last)
    vector = rows(TABLE)
    assert torch.equal(models.Input(TABLE)(vector), vector)


def test_weights_are_a_function_of_the_seed() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        models.build(Mlp(name="mlp"), GREY, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["body.1.weight"], other["body.1.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sizes_of_the_spec() -> None:
    mlp = models.build(Mlp(name="mlp", hidden=[512, 256, 128], dropout=0.5), GREY, 0)
    assert [p.shape[0] for p in mlp.parameters() if p.dim() == 2] == [512, 256, 128, 10]
    assert sum(isinstance(layer, torch.nn.Dropout) for layer in mlp.modules()) == 3
    cnn = models.build(Cnn(name="cnn", depth=3, width=4, hidden=7, batch_norm=True), GREY, 0)
    assert [p.shape[:2] for p in cnn.parameters() if p.dim() == 4] == [(4, 1), (8, 4), (16, 8)]
    with pytest.raises(SpecError, match="4 blocks halve a 8x8 image to nothing; give at most 3"):
        models.build(Cnn(name="cnn", depth=4), TINY, 0)


@pytest.mark.parametrize(
    ("name", "signature", "side"),
    [
        ("resnet18", GREY, None),
        ("resnet18", COLOUR, None),
        ("alexnet", GREY, 64),
        ("squeezenet1_0", TINY, 32),
    ],
)
def test_torchvision(name: str, signature: Signature, side: int | None) -> None:
    network = models.build(Torchvision(name=name), signature, 0)
    assert network.input.side == side
    assert network(rows(signature, 2)).shape == (2, signature.num_outputs)


def test_torchvision_that_is_not_there() -> None:
    with pytest.raises(
        SpecError, match=r"model\.name: no model 'resnet81'; did you mean .*resnet18"
    ):
        models.build(Torchvision(name="resnet81"), GREY, 0)
    with pytest.raises(SpecError, match="unexpected keyword argument 'depth'"):
        models.build(Torchvision(name="resnet18", arguments={"depth": 3}), GREY, 0)
    with pytest.raises(SpecError, match="resnet18 takes images"):
        models.build(Torchvision(name="resnet18"), TABLE, 0)


def test_new_head_for_pretrained_weights() -> None:
    from torchvision.models import resnet18, squeezenet1_0

    body = resnet18()
    networks._replace_head(body, 1000, 4)
    assert body.fc.out_features == 4
    body = squeezenet1_0()
    networks._replace_head(body, 1000, 4)
    assert body.classifier[1].out_channels == 4


USERS = """
from torch import nn
def good(signature, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(signature.shape[0], width), nn.Linear(width, signature.num_outputs))
def wrong_shape(signature):
    return nn.Linear(5, 7)
def wrong_input(signature):
    return nn.Linear(6, 2)
def no_module(signature):
    return 3
"""


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        ("users_models:god", {}, "no function god; did you mean good?"),
        ("users_model:good", {}, "cannot import users_model"),
        ("users_models:good", {"widht": 3}, "widht"),
        ("users_models:no_module", {}, "returned a int, not a torch.nn.Module"),
        ("users_models:wrong_shape", {}, r"gives \(2, 7\) for 2 rows, expected \(2, 2\)"),
        ("users_models:wrong_input", {}, r"fails on float32 inputs of \(2, 5\)"),
    ],
)
def test_builder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    builder: str,
    arguments: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "users_models.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    network = models.build(Builder(builder="users_models:good", arguments={"width": 9}), TABLE, 0)
    assert network(rows(TABLE)).shape == (3, 2)
    assert network.training
    with pytest.raises(SpecError, match=message):
        models.build(Builder(builder=builder, arguments=arguments), TABLE, 0)
