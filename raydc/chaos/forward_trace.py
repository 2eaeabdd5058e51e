"""What each module of a network holds, draws and gives, forward pass by forward pass, to compare two runs of one spec.

Torch calls the hooks of this process for every module, so neither the network nor the loop knows that it is watched.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from raydc.models.networks import Network

Digest = bytes
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What torch itself keeps in a module.
_TORCH_OWN = frozenset({"training", *vars(nn.Module())})


@dataclass
class ModuleCall:
    """One forward pass in training mode: one logical shard of a step.

    Attributes:
        rows: Of the input.
        parameters: By name, before.
        buffers: The same, those included that are in no checkpoint.
        attributes: What else a module holds in Python, before: by `module.attribute`.
        given: Name and output of each module, in the order in which they were done.
        draws: Modules that drew random numbers which are not torch's, with whose.
    """

    rows: Digest
    parameters: dict[str, Digest]
    buffers: dict[str, Digest]
    attributes: dict[str, Any]
    given: list[tuple[str, Digest]] = field(default_factory=list)
    draws: dict[str, str] = field(default_factory=dict)


class ForwardTrace:
    """The training passes of a network, in order.

    Attributes:
        calls: One for each pass.
        network: The one that was seen.
    """

    def __init__(self) -> None:
        self.calls: list[ModuleCall] = []
        self.network: Network | None = None
        self._names: dict[int, str] = {}
        self._call: ModuleCall | None = None
        self._states: list[dict[str, Digest]] = []
        self._drew: list[set[str]] = []

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, Network) and module.training and torch.is_grad_enabled():
            self._begin(module, inputs)
        if self._call is not None:
            self._states.append(_random_states())
            self._drew.append(set())

    def _begin(self, network: Network, inputs: tuple[Any, ...]) -> None:
        if network is not self.network:
            self.network = network
            self._names = {
                id(module): name or "network" for name, module in network.named_modules()
            }
        self._call = ModuleCall(
            rows=digest(inputs),
            parameters={name: digest(tensor) for name, tensor in network.named_parameters()},
            buffers={name: digest(tensor) for name, tensor in network.named_buffers()},
            attributes=_attributes(network),
        )

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call = self._call
        if call is None:
            return
        name = self._names.get(id(module), type(module).__name__)
        call.given.append((name, digest(output)))
        before, drew_inside = self._states.pop(), self._drew.pop()
        drew = {source for source, state in _random_states().items() if state != before[source]}
        for source in sorted(drew - drew_inside):
            call.draws[name] = source
        if self._drew:
            self._drew[-1] |= drew
        if module is self.network:
            self.calls.append(call)
            self._call = None


@contextlib.contextmanager
def tracing() -> Iterator[ForwardTrace]:
    """Watches the networks that are trained inside."""
    trace = ForwardTrace()
    handles = [
        hooks.register_module_forward_pre_hook(trace._enter),
        hooks.register_module_forward_hook(trace._leave),
    ]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def digest(value: Any) -> Digest:
    """16 bytes that tell values apart: of tensors to the last bit, inside tuples, lists and mappings too."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in _parts(value):
        hashed.update(part)
    return hashed.digest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield repr(key).encode()
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode() if isinstance(value, _PLAIN) else type(value).__name__.encode()


def _random_states() -> dict[str, Digest]:
    """Of the generators that a step does not set."""
    state = np.random.get_state()
    return {
        "Python's `random`": digest(pickle.dumps(random.getstate())),
        "`numpy.random`": digest(list(state)),
    }


def _attributes(network: nn.Module) -> dict[str, Any]:
    """Plain values and arrays that modules hold in Python: what no checkpoint knows of."""
    found = {}
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _TORCH_OWN:
                continue
            if isinstance(value, _PLAIN):
                found[f"{name or 'network'}.{attribute}"] = value
            elif isinstance(value, list | tuple | dict | set | np.ndarray | Tensor):
                held = sorted(map(repr, value)) if isinstance(value, set) else value
                found[f"{name or 'network'}.{attribute}"] = digest(held).hex()[:8]
    return found
