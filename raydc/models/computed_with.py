"""What a network of texts is computed with: libraries, and the kernel of attention. In workers.

Last bits depend on both, so a run records them beside the versions of torch and Python.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend

from raydc.models.network_parts import RecordInput
from raydc.models.pretrained_part import PretrainedPart
from raydc.spec import ResolvedSpec
from raydc.spec.sequence_models import Decoder, HuggingFace


def describe_libraries(spec: ResolvedSpec, network: nn.Module) -> dict[str, str]:
    """Versions of the libraries of a pretrained network, and the kernel of attention of a step.

    Args:
        spec: The resolved spec; `model` and `train.precision` are used.
        network: Network that was built from it, on its device.

    Returns:
        `transformers` and other packages, and `attention`: `eager`, or the name that torch gives to
        the kernel it chooses for a row. Empty for other networks.
    """
    model = spec.model
    if isinstance(model, Decoder):
        return {"attention": _kernel(spec, network, model.heads, model.width // model.heads, 0.0)}
    if not isinstance(model, HuggingFace):
        return {}
    versions = {name: importlib.metadata.version(name) for name in model.libraries}
    if model.attention == "eager":
        return {**versions, "attention": model.attention}
    part = next(one for one in network.modules() if isinstance(one, PretrainedPart))
    config: Any = part.base.config
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    names = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop")
    dropout = next((float(getattr(config, n)) for n in names if hasattr(config, n)), 0.0)
    return {**versions, "attention": _kernel(spec, network, heads, width, dropout)}


def _kernel(spec: ResolvedSpec, network: nn.Module, heads: int, width: int, dropout: float) -> str:
    """Name of the kernel that torch chooses for one row of the greatest length."""
    first = next(one for one in network.modules() if isinstance(one, RecordInput))
    (field,) = first.fields.values()
    length = field.max_length if field.form == "list" else field.shape[0] - 1
    device = next(network.parameters()).device
    dtype = torch.bfloat16 if spec.train.precision == "bf16" else torch.float32
    query = torch.zeros(1, heads, length, width, device=device, dtype=dtype, requires_grad=True)
    mask = torch.ones(1, 1, length, length, device=device, dtype=torch.bool)
    # The function by which torch itself chooses; there is none with a public name.
    choice = torch._fused_sdp_choice(query, query, query, mask, dropout, False)
    return str(SDPBackend(choice).name).lower()
