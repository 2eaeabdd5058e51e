"""Traces what each module of a network holds, draws and returns, to compare two runs of one spec.

Runs in the driver, for runs without workers. Torch calls this process's global hooks for every
module, so that neither the network nor the loop has to know of the trace.
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

from raydc.models.network_parts import Network

Digest = bytes
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Attributes that torch itself keeps in every module.
_TORCH_OWN = frozenset({"training", *vars(nn.Module())})


@dataclass
class ForwardPass:
    """One forward pass in training mode: one logical shard of a step.

    Attributes:
        rows: Digest of the inputs of the shard.
        parameters: Digests by name, before the pass.
        buffers: Digests by name, before the pass; also of buffers that no checkpoint holds.
        attributes: Other Python values of modules before the pass, by `module.attribute`.
        outputs: Name and output digest of each module, in the order in which they ended.
        draws: Foreign random generators by the name of the module that drew from them.
    """

    rows: Digest
    parameters: dict[str, Digest]
    buffers: dict[str, Digest]
    attributes: dict[str, Any]
    outputs: list[tuple[str, Digest]] = field(default_factory=list)
    draws: dict[str, str] = field(default_factory=dict)


class ForwardTrace:
    """The training passes of a network, in order.

    Attributes:
        passes: Forward passes in training mode, in the order in which they ran.
        network: The network that was traced last.
    """

    def __init__(self) -> None:
        self.passes: list[ForwardPass] = []
        self.network: Network | None = None
        self._names: dict[int, str] = {}
        self._current: ForwardPass | None = None
        # Stacks, an entry for each module that is running: generator states at its start, and the
        # generators that modules inside it have drawn from.
        self._states: list[dict[str, Digest]] = []
        self._drew: list[set[str]] = []

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Validation does not count: it must not change the network.
        if isinstance(module, Network) and module.training and torch.is_grad_enabled():
            self._start_pass(module, inputs)
        if self._current is not None:
            self._states.append(_random_states())
            self._drew.append(set())

    def _start_pass(self, network: Network, inputs: tuple[Any, ...]) -> None:
        if network is not self.network:
            self.network = network
            self._names = {
                id(module): name or "network" for name, module in network.named_modules()
            }
        self._current = ForwardPass(
            rows=digest(inputs),
            parameters={name: digest(tensor) for name, tensor in network.named_parameters()},
            buffers={name: digest(tensor) for name, tensor in network.named_buffers()},
            attributes=_attributes(network),
        )

    def _leave(self, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        current = self._current
        if current is None:
            return
        name = self._names.get(id(module), type(module).__name__)
        current.outputs.append((name, digest(output)))
        before, drew_inside = self._states.pop(), self._drew.pop()
        # A module is blamed only for draws of its own, not for those of its parts.
        drew = {source for source, state in _random_states().items() if state != before[source]}
        for source in sorted(drew - drew_inside):
            current.draws[name] = source
        if self._drew:
            self._drew[-1] |= drew
        if module is self.network:
            self.passes.append(current)
            self._current = None


@contextlib.contextmanager
def tracing() -> Iterator[ForwardTrace]:
    """Traces the networks that are trained inside the block."""
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
    """Hashes a value to 16 bytes: tensors and arrays to the last bit, also inside containers."""
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
        # The repr of other objects may contain their address, which differs in each run.
        yield repr(value).encode() if isinstance(value, _PLAIN) else type(value).__name__.encode()


def _random_states() -> dict[str, Digest]:
    """States of the generators that raydc does not set for each step."""
    state = np.random.get_state()
    return {
        "Python's `random`": digest(pickle.dumps(random.getstate())),
        "`numpy.random`": digest(list(state)),
    }


def _attributes(network: nn.Module) -> dict[str, Any]:
    """Plain values and arrays that modules hold in Python attributes, which no checkpoint holds."""
    found = {}
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _TORCH_OWN:
                continue
            if isinstance(value, _PLAIN):
                found[f"{name or 'network'}.{attribute}"] = value
            elif isinstance(value, list | tuple | dict | set | np.ndarray | Tensor):
                # The order of a set of strings differs in each process.
                held = sorted(map(repr, value)) if isinstance(value, set) else value
                found[f"{name or 'network'}.{attribute}"] = digest(held).hex()[:8]
    return found
