"""A builder whose import makes forward passes of any number of rows, as if no bits were promised.

Imported in a replica of bench/rows.py, to see what filling up a batch costs.
"""

from __future__ import annotations

from typing import Any

import torch
from serve_task import MODELS
from torch import nn

from raydc import models
from raydc.bundle import Bundle, padding
from raydc.bundle.padding import Padding
from raydc.features import Signature


def network(signature: Signature, model: str) -> nn.Module:
    """The layers of a task by the name of its model."""
    network = models.build(MODELS[model], signature, 0)
    # A network of a builder gets the same layer of its inputs in front, but not this format.
    body = network.get_submodule("body")
    if model != "mlp":
        body.register_forward_pre_hook(_to_channels_last)
    return body


def _to_channels_last(_: nn.Module, inputs: Any) -> Any:
    return inputs[0].contiguous(memory_format=torch.channels_last)


def _every_size(bundle: Bundle) -> Padding:
    return Padding(tuple(range(1, bundle.max_rows + 1)))


padding.measure = _every_size
