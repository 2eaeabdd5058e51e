"""Layers that training leaves as they are. Used where networks are built."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from raydc.models.network_parts import Network, model_problem
from raydc.models.parameter_names import head_names, matches, require_matches
from raydc.models.pretrained_part import PretrainedPart
from raydc.spec.model_section import BODY

_FIELD = "model.freeze"


def freeze(network: Network, patterns: Sequence[str]) -> None:
    """Freezes parameters, the statistics of wholly frozen batch normalisations, and the dropout of
    wholly frozen layers of a pretrained network.

    Args:
        network: Network that was just built; it is changed in place.
        patterns: Names and patterns from `model.freeze`; `body` is all but the last layer.

    Raises:
        SpecError: A pattern names nothing, or no parameter is left to train.
    """
    parts = [one for one in network.modules() if isinstance(one, PretrainedPart)]
    # Adapters have frozen the encoder already.
    if not patterns and not parts:
        return
    parameters = dict(network.named_parameters())
    names = [*parameters, *(name for name, _ in network.named_buffers())]
    require_matches(patterns, names, _FIELD)
    head = head_names(network)
    frozen = {
        name
        for name in names
        for pattern in patterns
        # Buffers as well as parameters, which `names_of` does not cover.
        if (name not in head if pattern == BODY else matches(name, pattern))
    }
    for name in frozen & parameters.keys():
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise model_problem(_FIELD, "no weight is left to train; leave the last layer out")
    network.keep_in_evaluation_mode([*_frozen_norms(network, frozen), *_frozen_parts(network)])


def _frozen_norms(network: Network, frozen: set[str]) -> list[nn.Module]:
    """Normalisations with running statistics whose tensors are all frozen."""
    found: list[nn.Module] = []
    for prefix, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            own = [f"{prefix}.{name}" for name in module.state_dict()]
            if own and frozen.issuperset(own):
                found.append(module)
    return found


def _frozen_parts(network: Network) -> list[nn.Module]:
    """Modules inside frozen layers of a pretrained network."""
    parts = [one for one in network.modules() if isinstance(one, PretrainedPart)]
    layers = [
        layer
        for part in parts
        for layer in part.modules()
        if (own := list(layer.parameters())) and not any(one.requires_grad for one in own)
    ]
    # A layer of a layer comes up once.
    return list(dict.fromkeys(part for layer in layers for part in layer.modules()))


def count_trained(network: Network) -> tuple[int, int]:
    """Number of weights that train, and of all weights."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
