"""Weights of a pretrained network: found in the files of its folder, compared and loaded.

Used where networks are built, and by the checks before a run, which read the shapes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from raydc.errors import first_line
from raydc.models import adapters, pretrained_decoders, text_encoders
from raydc.models.network_parts import Network, model_problem
from raydc.models.pretrained_decoders import PretrainedDecoder
from raydc.models.pretrained_part import PretrainedPart, part_of
from raydc.models.text_encoders import PooledEncoder
from raydc.spec import model_files
from raydc.spec.sequence_models import HuggingFace
from raydc.storage import sha256

_FIELD = "model.path"
# Names of normalisations in files that were converted from TensorFlow.
_OLD_ENDINGS = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
_MOST_NAMED = 4


def check_folder(
    model: HuggingFace, num_codes: int, length: int | None = None, served: int | None = None
) -> None:
    """Refuses a folder whose tokenizer or weights do not fit its config; reads no weights.

    Args:
        model: Section `model` of a resolved spec.
        num_codes: Number of codes of the tokenizer.
        length: Tokens that a row predicts; None for an encoder.
        served: Tokens that an endpoint takes, if they are others.

    Raises:
        SpecError: A package is missing, the config cannot be used, sizes do not agree, or a target
            of adapters is no layer.
    """
    text_encoders.require_packages()
    config = text_encoders.make_config(model)
    if length is None:
        text_encoders.require_codes(num_codes, config.vocab_size)
    else:
        pretrained_decoders.require_size(config, num_codes, length)
        pretrained_decoders.require_positions(config, served or 0, "serve.generation.length")
    if model.lora is None and not model.reads_folder:
        return
    # On the meta device a network has shapes and no numbers.
    with torch.device("meta"):
        part: PretrainedPart = (
            PooledEncoder(text_encoders.make_base(model, config), model, "")
            if length is None
            else PretrainedDecoder(model, config, 0)
        )
    if model.lora is not None:
        adapters.find_targets(part.base, model.lora)
    if model.reads_folder:
        folder = _folder(model)
        find_names(part, model_files.read_shapes(folder), folder)


def load(network: Network, model: HuggingFace) -> None:
    """Copies the weights of the folder into a new network, and notes what it did not take.

    Args:
        network: Network that was built from the section; changed in place.
        model: Section `model` of a resolved spec.

    Raises:
        SpecError: A file has changed since the run began, or does not fit the network.
    """
    folder = _folder(model)
    tensors = _read(folder, model)
    part = part_of(network)
    names = find_names(part, {name: tuple(one.shape) for name, one in tensors.items()}, folder)
    state = part.pretrained_state()
    with torch.no_grad():
        for name, given in names.items():
            # Weights of half precision become float32.
            state[name].copy_(tensors[given])
    network.notes.append(f"starts with {len(names)} tensors of {model.path}")
    left = sorted(tensors.keys() - names.values())
    if left:
        network.notes.append(f"not taken from it: {_some(left)}")


def find_names(
    part: PretrainedPart, shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> dict[str, str]:
    """Name in the files for each tensor of a pretrained network.

    Args:
        part: Network, which may be on the meta device.
        shapes: Shapes of the tensors in the files, by name.
        folder: Folder of the files, for messages.

    Raises:
        SpecError: Tensors are missing or of a different shape.
    """
    base: Any = part.base
    prefix = f"{base.base_model_prefix}."
    found: dict[str, str] = {}
    missing, different = [], []
    for name, tensor in part.pretrained_state().items():
        forms = [name]
        for ending, old in _OLD_ENDINGS.items():
            forms += [name.removesuffix(ending) + old] if name.endswith(ending) else []
        # Files of a network with a head have the name of the encoder in front.
        given = next(
            (one for form in forms for one in (form, prefix + form) if one in shapes), None
        )
        if given is None:
            missing.append(name)
        elif shapes[given] != tuple(tensor.shape):
            different.append(f"{given} {list(shapes[given])} instead of {list(tensor.shape)}")
        else:
            found[name] = given
    if missing or different:
        parts = {"missing": missing, "of a different shape": different}
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in parts.items() if names)
        raise model_problem(_FIELD, f"the weights of {folder} do not fit its config.json: {listed}")
    return found


def _folder(model: HuggingFace) -> Path:
    revision = model.content.revision if model.content else None
    return model_files.locate(model.path, revision)[0]


def _read(folder: Path, model: HuggingFace) -> dict[str, Tensor]:
    """All tensors of the folder, whose config and weights are as they were noted."""
    noted = model.content.files if model.content else {}
    tensors: dict[str, Tensor] = {}
    for name, expected in noted.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            message = f"{folder / name}: {error.strerror or error}"
            raise model_problem(_FIELD, message) from error
        if sha256(content) != expected:
            raise model_problem(
                _FIELD,
                f"{folder / name} has sha256 {sha256(content)[:12]}..., but model.content says "
                f"{expected[:12]}...: the file has changed since the run began",
            )
        if name.endswith(".safetensors"):
            try:
                tensors |= safetensors.torch.load(content)
            except (SafetensorError, ValueError) as error:
                message = f"{folder / name} is not a file of safetensors: {first_line(error)}"
                raise model_problem(_FIELD, message) from error
    return tensors


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
