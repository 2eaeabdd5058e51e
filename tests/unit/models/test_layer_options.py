"""Activations and first weights by name."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from signatures import GREY, TINY, make_rows
from torch import nn

from raydc import models
from raydc.models import layer_options
from raydc.spec.model import Cnn, Mlp
from raydc.spec.model_section import ActivationName, InitialisationName

ACTIVATIONS: dict[str, Any] = {
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "tanh": torch.tanh,
}


def test_default_options_leave_weights_and_names_as_they_were() -> None:
    torch.manual_seed(7)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)]
    head = [nn.Linear(8 * 2 * 2, 5), nn.Linear(5, TINY.num_outputs)]
    names = ["body.0", "body.3", "body.7", "body.9"]
    network = models.build(Cnn(name="cnn", channels=[4, 8], hidden=5), TINY, 7)
    found = dict(network.named_parameters())
    for name, layer in zip(names, [*layers, *head], strict=True):
        assert torch.equal(found.pop(f"{name}.weight"), layer.weight)
        assert torch.equal(found.pop(f"{name}.bias"), layer.bias)
    assert not found


@pytest.mark.parametrize("name", get_args(ActivationName))
def test_activation_is_what_it_is_called(name: Any) -> None:
    x = torch.linspace(-3, 3, 50).reshape(1, 2, 5, 5)
    assert torch.equal(layer_options.make_activation(name)(x.clone()), ACTIVATIONS[name](x))
    # The order is chosen for speed; the numbers are those of the activation before the pooling.
    pooled = nn.Sequential(*layer_options.pool_and_activate(name))(x.clone())
    assert torch.equal(pooled, nn.functional.max_pool2d(ACTIVATIONS[name](x), 2))


@pytest.mark.parametrize("name", get_args(ActivationName))
@pytest.mark.parametrize("section", [{"name": "mlp", "hidden": [6]}, {"name": "cnn", "depth": 1}])
def test_every_activation_of_a_network_keeps_its_names(name: Any, section: dict[str, Any]) -> None:
    kind = Mlp if section["name"] == "mlp" else Cnn
    plain, other = (
        models.build(kind(**section, **more), TINY, 0) for more in ({}, {"activation": name})
    )
    assert plain.state_dict().keys() == other.state_dict().keys()
    rows = make_rows(TINY)
    same = torch.equal(plain(rows), other(rows))
    assert same == (name == "relu")


@pytest.mark.parametrize("name", get_args(InitialisationName)[1:])
def test_first_weights_have_their_distribution_and_follow_from_the_seed(name: Any) -> None:
    section = Mlp(name="mlp", hidden=[64], initialisation=name)
    first, again, other = (models.build(section, GREY, seed).body[1] for seed in (1, 1, 2))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert not first.bias.any()
    num_inputs, num_outputs = first.in_features, first.out_features
    if name == "orthogonal":
        product = first.weight @ first.weight.T
        assert torch.allclose(product, torch.eye(num_outputs), atol=1e-4)
    else:
        variance = 2 / (num_inputs + num_outputs) if name.startswith("xavier") else 2 / num_inputs
        assert float(first.weight.var()) == pytest.approx(variance, rel=0.1)
