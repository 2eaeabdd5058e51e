"""Adapters of low rank (LoRA) on the frozen layers of a pretrained network, made by peft.

Used where networks are built. A layer W becomes W x + B A x times a factor; W stays as it is and is
never merged with BA, because W + BA - BA is not W in floating point.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from raydc.errors import did_you_mean
from raydc.models import weights_file
from raydc.models.network_parts import Network, model_problem
from raydc.models.parameter_names import matches
from raydc.models.pretrained_decoders import PretrainedDecoder
from raydc.models.pretrained_part import part_of
from raydc.spec.model_files import INSTALL
from raydc.spec.sequence_models import HuggingFace, Lora

_TARGETS = "model.lora.targets"
# Parts of the names of the tensors that peft adds to a layer.
_ADDED = (".lora_A.", ".lora_B.")
_MOST_NAMED = 12
# peft puts this in front of all names in its files.
_PREFIX = "base_model.model."


def require_peft() -> None:
    """Raises SpecError if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise model_problem("model.lora", f"adapters need peft; install it: {INSTALL}")


def add(network: Network, model: HuggingFace, seed: int) -> None:
    """Freezes the pretrained part of a new network, and adds adapters to its linear layers.

    The first B is zero, so that the network computes what it did before.

    Args:
        network: Network that was built from the section; changed in place.
        model: Section `model` of a resolved spec, with `lora`.
        seed: Seed from which the first A is drawn.

    Raises:
        SpecError: peft is not installed, or a target names no linear layer.
    """
    if model.lora is None:
        return
    part = part_of(network)
    base = part.base
    if hasattr(base, "peft_config"):
        # peft would put new adapters around or beside the trained ones.
        raise ValueError("the network has adapters already")
    targets = find_targets(base, model.lora)
    # Imported late: it takes time, and other models do not need it.
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=model.lora.rank,
        lora_alpha=model.lora.alpha,
        lora_dropout=model.lora.dropout,
        fan_in_fan_out=any(_is_by_input(base.get_submodule(name)) for name in targets),
        target_modules=targets,
        base_model_name_or_path=model.path,
        revision=model.content.revision if model.content else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, base)
    # peft freezes what it is given, and a last layer with weights of the folder stays as well.
    if part.head is not None:
        part.head.requires_grad_(False)
    network.train(network.training)


def find_targets(base: nn.Module, lora: Lora) -> list[str]:
    """Names of the linear layers of a network that get adapters, in its order.

    Args:
        base: Network of transformers without adapters, which may be on the meta device.
        lora: Section `model.lora`.

    Raises:
        SpecError: peft is not installed, or a target names no linear layer.
    """
    require_peft()
    modules = base.named_modules()
    layers = [name for name, one in modules if type(one) is nn.Linear or _is_by_input(one)]
    if not layers:
        kinds = type(base).__name__
        raise model_problem("model.lora", f"{kinds} has no linear layers that get adapters")
    if lora.targets is None:
        return layers
    found: set[str] = set()
    for target in lora.targets:
        named = {name for name in layers if _names(name, target)}
        if not named:
            ends = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in layers))
            hint = did_you_mean(target, ends)
            known = ", ".join(_short(layers)[:_MOST_NAMED])
            message = f"{target!r} names no linear layer of the network; there are {known}"
            raise model_problem(_TARGETS, f"{message}; {hint}" if hint else message)
        found |= named
    return [name for name in layers if name in found]


def _is_by_input(layer: nn.Module) -> bool:
    """Whether it is a linear layer of GPT-2, whose weights are stored by input."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def _names(name: str, target: str) -> bool:
    """Whether a target names a layer: by its end, or by a pattern or a module around it."""
    return name.endswith(f".{target}") or matches(name, target) or matches(name, f"*.{target}")


def _short(layers: list[str]) -> list[str]:
    """Names of layers behind the number of the layer of the network, each once."""
    short = []
    for name in layers:
        parts = name.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdigit()]
        short.append(".".join(parts[numbers[-1] + 1 :] if numbers else parts))
    return list(dict.fromkeys(short))


def require_trained(network: Network) -> None:
    """Raises SpecError if `model.freeze` freezes all adapters of a network that has some."""
    added = [value for name, value in network.named_parameters() if is_added(name)]
    if added and not any(value.requires_grad for value in added):
        raise model_problem(
            "model.freeze",
            "it freezes all adapters of model.lora; the layers under them are frozen anyway, so "
            "leave it out",
        )


def are_in_file(model: HuggingFace) -> bool:
    """Whether the file of `model.weights` has adapters; False for none and for no file."""
    return model.weights_file is not None and any(map(is_added, weights_file.read(model)))


def is_added(name: str) -> bool:
    """Whether a tensor of a network is part of an adapter, by its name."""
    return any(part in f".{name}" for part in _ADDED)


def write_files(network: nn.Module, folder: Path) -> None:
    """Writes the adapters of a network in peft's own format, for its network of transformers.

    `PeftModel.from_pretrained(BASE, folder)` loads them; BASE is an encoder of AutoModel or a
    decoder of AutoModelForCausalLM.

    Args:
        network: Network with adapters.
        folder: Folder to write `adapter_config.json` and `adapter_model.safetensors` to.

    Raises:
        ValueError: The network has no adapters.
    """
    from peft import get_peft_model_state_dict

    part = part_of(network)
    base: Any = part.base
    if not hasattr(base, "peft_config"):
        raise ValueError("the network has no adapters")
    config = copy.copy(next(iter(base.peft_config.values())))
    # In full and in order: peft shortens the names to what is unique in this network, as a set.
    prefix = f"{base.base_model_prefix}." if isinstance(part, PretrainedDecoder) else ""
    config.target_modules = [
        prefix + name for name, one in base.named_modules() if hasattr(one, "lora_A")
    ]
    config.task_type = "CAUSAL_LM" if prefix else None
    config.inference_mode = True
    state = get_peft_model_state_dict(base)
    tensors = {
        _PREFIX + prefix + name: one.detach().cpu().contiguous() for name, one in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    safetensors.torch.save_file(
        tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
