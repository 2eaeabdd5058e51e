"""Activations and first weights by name, for networks of raydc's own. Used where they are built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from raydc.spec.model_section import ActivationName, InitialisationName

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "silu": partial(nn.SiLU, inplace=True),
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
# An activation that never falls gives the same numbers before and after a maximum.
_NEVER_FALL = ("relu", "leaky_relu", "tanh")
_FIRST_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
}


def make_activation(name: ActivationName) -> nn.Module:
    """Makes a layer of an activation, which changes its input in place if it can."""
    return _ACTIVATIONS[name]()


def pool_and_activate(name: ActivationName) -> list[nn.Module]:
    """A 2x2 max pooling and an activation, in the cheaper order that gives the same numbers."""
    # After the pooling the activation has a quarter of the work.
    layers = [nn.MaxPool2d(2), make_activation(name)]
    return layers if name in _NEVER_FALL else layers[::-1]


def initialise(body: nn.Module, name: InitialisationName) -> None:
    """Draws the weights of linear layers and convolutions again, from the generator of the process.

    Their biases become 0. Does nothing for `default`, which is what torch has drawn.

    Args:
        body: Layers that are new; changed in place.
        name: Distribution from which the weights are drawn.
    """
    if name == "default":
        return
    for layer in body.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _FIRST_WEIGHTS[name](layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
