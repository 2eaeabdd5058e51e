"""Patterns of names of weights, as `freeze`, `layer_rates` and `no_decay` take them.

Used where networks are built, and by the optimiser.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from raydc.errors import Problem, SpecError, did_you_mean
from raydc.spec.model_section import BODY

# All layers of a model are in this attribute of a network, so a user need not type it.
_PREFIX = f"{BODY}."


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a tensor of a network.

    Args:
        name: Name of the tensor in the network, such as `body.layer1.0.conv1.weight`.
        pattern: Its name or the name of a module that it is in, with or without `body.`; `*`, `?`
            and `[...]` stand for other characters.
    """
    names = (name, name.removeprefix(_PREFIX))
    return any(fnmatchcase(one, form) for one in names for form in (pattern, f"{pattern}.*"))


def require_matches(patterns: Sequence[str], names: Iterable[str], path: str) -> None:
    """Refuses patterns that name nothing.

    Args:
        patterns: Names, or patterns with `*`, from a field of the spec.
        names: Names of the tensors of a network.
        path: Dotted path of the field, for the message.

    Raises:
        SpecError: A pattern matches no name.
    """
    names = list(names)
    for pattern in patterns:
        if pattern != BODY and not any(matches(name, pattern) for name in names):
            short = [name.removeprefix(_PREFIX) for name in names]
            parts = [name.split(".") for name in short]
            known = [".".join(one[: depth + 1]) for one in parts for depth in range(len(one))]
            hint = (
                did_you_mean(pattern, list(dict.fromkeys(known)))
                or f"there are {', '.join(short[:4])}, ..."
            )
            message = f"{pattern!r} names no weight of this network; {hint}"
            raise SpecError([Problem("", path, message)])


def names_of(network: nn.Module, pattern: str) -> set[str]:
    """Names of the parameters that a pattern names; `body` is all layers but the last."""
    names = {name for name, _ in network.named_parameters()}
    if pattern == BODY:
        return names - head_names(network)
    return {name for name in names if matches(name, pattern)}


def head_names(network: nn.Module) -> set[str]:
    """Names of the parameters of the last layer that has any, in the order of the network."""
    layers = [
        [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        for prefix, module in network.named_modules()
    ]
    return set(next((names for names in reversed(layers) if names), []))
