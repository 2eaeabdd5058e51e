"""Files of weights: read without running code from them, and compared with a network.

Used where networks are built, and by the checks before a run.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raydc.errors import first_line
from raydc.models.network_parts import model_problem
from raydc.models.parameter_names import head_names
from raydc.spec.model_section import ModelSection
from raydc.storage import sha256

_FIELD = "model.weights"
# Keys under which training programs store the weights beside other values.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# Prefix that `torch.nn.DataParallel` and `DistributedDataParallel` add to all names.
_PARALLEL = "module."
_BODY, _INPUT = "body.", "input."
# Counters of batch normalisation, which files from old versions of torch lack.
_COUNTER = ".num_batches_tracked"
_MOST_NAMED = 5


@dataclass(frozen=True)
class Fit:
    """What a network takes from a file of weights.

    Attributes:
        taken: Tensors by their names in the network.
        left: Tensors of the file that are not used; those of a replaced last layer with their
            shapes.
        inputs: Normalisation and size of a model of raydc, by their names in its input layer.
    """

    taken: dict[str, Tensor]
    left: list[str]
    inputs: dict[str, Tensor]


def read(model: ModelSection) -> dict[str, Tensor]:
    """Reads the tensors of a file of weights.

    Args:
        model: Section of the spec, which names the file.

    Raises:
        SpecError: The file does not exist, has changed since the run began, or holds something
            other than tensors.
    """
    path = str(model.weights_file)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise model_problem(_FIELD, f"{path}: {error.strerror or error}") from error
    found = sha256(content)
    if model.weights_sha256 not in (None, found):
        raise model_problem(
            _FIELD,
            f"{path} has sha256 {found[:12]}..., but model.weights_sha256 is "
            f"{str(model.weights_sha256)[:12]}...: the file has changed since the run began",
        )
    try:
        value = (
            safetensors.torch.load(content)
            if path.endswith(".safetensors")
            else torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        )
    except pickle.UnpicklingError as error:
        raise model_problem(
            _FIELD,
            f"{path} holds more than tensors, and code from it is not run; save the state_dict() "
            "of its network with safetensors.torch.save_file",
        ) from error
    # torch raises errors of many types on a file that is damaged.
    except (SafetensorError, RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        raise model_problem(
            _FIELD, f"{path} is not a file of weights: {first_line(error)}"
        ) from error
    return _tensors_of(value, path)


def _tensors_of(value: Any, path: str) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping) or not value:
        raise model_problem(_FIELD, f"{path} holds no tensors by name")
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise model_problem(_FIELD, f"{path}: {name} is of type {kind}, not a tensor")
    if all(name.startswith(_PARALLEL) for name in value):
        return {name.removeprefix(_PARALLEL): tensor for name, tensor in value.items()}
    return dict(value)


def fit(
    network: nn.Module, tensors: Mapping[str, Tensor], path: str, unused: Sequence[str] = ()
) -> Fit:
    """Compares the tensors of a file with a network, whose last layer may differ in its outputs.

    Args:
        network: Network to compare with. It is not changed, and may be on the meta device.
        tensors: Tensors of the file, by name.
        path: Path of the file, for messages.
        unused: Parts of the file that are left out, such as auxiliary heads.

    Raises:
        SpecError: Tensors are missing, unexpected or of a different shape; they are named.
    """
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(_INPUT)}
    inputs = {k: v for k, v in tensors.items() if k.startswith(_INPUT)}
    rest = {k: v for k, v in tensors.items() if k not in inputs}
    # A model of raydc has its layers in `body`; other files name them as their network does.
    if sum(name in state for name in rest) < sum(_BODY + name in state for name in rest):
        rest, inputs = {_BODY + k: v for k, v in tensors.items()}, {}
    left = [name for name in rest if name.startswith(tuple(_BODY + part for part in unused))]
    rest = {name: tensor for name, tensor in rest.items() if name not in left}
    new_head = _new_head(network, state, rest)
    wrong = {
        "missing": [
            name
            for name in state
            if name not in rest and name not in new_head and not name.endswith(_COUNTER)
        ],
        "unexpected": [name for name in rest if name not in state],
        "of a different shape": [
            f"{name} {_shape(tensor)} instead of {_shape(state[name])}"
            for name, tensor in rest.items()
            if name in state and name not in new_head and tensor.shape != state[name].shape
        ],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in wrong.items() if names)
        raise model_problem(_FIELD, f"{path} does not fit the network: {listed}")
    left += [f"{name} {_shape(rest[name])}" for name in sorted(new_head & rest.keys())]
    taken = {name: tensor for name, tensor in rest.items() if name not in new_head}
    return Fit(taken, left, {name.removeprefix(_INPUT): v for name, v in inputs.items()})


def _new_head(
    network: nn.Module, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> set[str]:
    """Names in the last layer if the file has none of them or a different number of outputs."""
    head = head_names(network)
    # A network with tied weights ends with a normalisation, which no data set decides.
    if all(state[name].ndim < 2 for name in head):
        return set()
    there = head & tensors.keys()
    if not there:
        return head
    differs = any(tensors[name].shape != state[name].shape for name in there)
    only_outputs = all(tensors[name].shape[1:] == state[name].shape[1:] for name in there)
    return head if differs and only_outputs else set()


def load(network: nn.Module, found: Fit) -> None:
    """Copies what fits into a network.

    Args:
        network: Network to change in place.
        found: Result of `fit` for this network or one of the same shapes.
    """
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in found.taken.items():
            state[name].copy_(tensor)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
