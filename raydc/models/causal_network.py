"""A pretrained decoder in the form of transformers, with its last layer. Used in driver, replicas.

What is exported and what other engines load has these names and this config.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raydc.errors import CheckpointError
from raydc.models import adapters, text_encoders
from raydc.models.pretrained_part import HEAD, part_of
from raydc.spec.sequence_models import HuggingFace


def weights_of_decoder(network: nn.Module) -> dict[str, Tensor]:
    """Weights under the names of transformers, without adapters; contiguous, on the CPU.

    Args:
        network: Network of a bundle with a pretrained decoder.
    """
    part = part_of(network)
    base: Any = part.base
    state = {
        name.replace(".base_layer.", "."): one.detach().cpu().contiguous()
        for name, one in part.pretrained_state().items()
        if not adapters.is_added(name)
    }
    prefix = f"{base.base_model_prefix}."
    return {k if k.startswith(f"{HEAD}.") else prefix + k: one for k, one in state.items()}


def make_causal_network(network: nn.Module, model: HuggingFace, has_weights: bool = True) -> Any:
    """A new network of `AutoModelForCausalLM` with the weights of a decoder, without adapters.

    Args:
        network: Network of a bundle with a pretrained decoder.
        model: Section `model` of its spec.
        has_weights: Whether it gets the weights; otherwise it is on the meta device, for its
            config and its names.

    Raises:
        CheckpointError: transformers has other names.
    """
    # Imported late: it takes seconds, and other models do not need it.
    from transformers import AutoModelForCausalLM

    with torch.device("cpu" if has_weights else "meta"):
        made: Any = AutoModelForCausalLM.from_config(
            text_encoders.make_config(model),
            attn_implementation=model.attention,
            dtype=torch.float32,
            trust_remote_code=False,
        )
    given = weights_of_decoder(network)
    if has_weights:
        missing, unexpected = made.load_state_dict(given, strict=False)
    else:
        known = made.state_dict()
        missing = [name for name in known if name not in given]
        unexpected = [name for name in given if name not in known]
    # A last layer that is tied has the weights of the tokens.
    tied = [f"{HEAD}.weight"] if part_of(network).head is None else []
    if unexpected or missing not in ([], tied):
        raise CheckpointError(
            f"transformers has other weights for {model.path}: "
            f"{', '.join([*missing, *unexpected][:4])}",
            "Nothing was written. Report it with the version of transformers.",
        )
    return made.eval()
