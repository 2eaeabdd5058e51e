"""Adapters of slots: each slot of a pretrained decoder has its own, in one pass. In replicas.

A layer multiplies what it is given by the adapter of each row, in products of fixed shapes, so that
a row depends on its own adapter only. The base is shared: nothing is ever added to its weights,
because W + BA - BA is not W in floating point.

Shape suffixes: S slots, B rows of a pass, L tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raydc.models.pretrained_part import PretrainedPart

# Tensors of adapters by their names in the network.
AdapterWeights = Mapping[str, Tensor]


class SlotAdapter(nn.Module):
    """A linear layer with an adapter for each slot.

    Args:
        layer: Layer of peft, whose linear layer is used and not copied.
        num_slots: Number of slots.

    Attributes:
        rows: Slots of the pass that runs.
    """

    def __init__(self, layer: Any, num_slots: int) -> None:
        super().__init__()
        ((name, down),) = layer.lora_A.items()
        self.base: nn.Module = layer.base_layer
        self.scale = float(layer.scaling[name])
        self.rows = slice(0, num_slots)
        # No buffers: they are no part of a state.
        self.down_SRI = down.weight.new_zeros(num_slots, *down.weight.shape)
        self.up_SOR = down.weight.new_zeros(num_slots, *layer.lora_B[name].weight.shape)

    def forward(self, x_BLI: Tensor) -> Tensor:
        """Outputs of the linear layer and of the adapters, [B, L, O]."""
        small_BLR = torch.bmm(x_BLI, self.down_SRI[self.rows].transpose(1, 2))
        added_BLO = torch.bmm(small_BLR, self.up_SOR[self.rows].transpose(1, 2))
        outputs_BLO: Tensor = self.base(x_BLI) + added_BLO * self.scale
        return outputs_BLO


class SlotAdapters:
    """The network of a decoder with an adapter for each slot.

    Args:
        part: Decoder with or without adapters; stays as it is, and its weights are shared.
        num_slots: Number of slots.

    Attributes:
        base: The network for the slots.
        num_assigned: Times that a slot got another adapter.
    """

    def __init__(self, part: PretrainedPart, num_slots: int) -> None:
        self._layers: dict[str, SlotAdapter] = {}
        self._assigned: list[AdapterWeights | None] = [None] * num_slots
        self.num_assigned = 0
        self.base: Any = part.base
        weights = weights_of(part)
        if weights is not None:
            # Modules are copied, tensors are not.
            self.base = share_tensors(part.base)
            self._replace_layers(num_slots)
            for slot in range(num_slots):
                self.assign(slot, weights)

    def _replace_layers(self, num_slots: int) -> None:
        found = [(name, one) for name, one in self.base.named_modules() if hasattr(one, "lora_A")]
        for name, layer in found:
            made = self._layers[name] = SlotAdapter(layer, num_slots)
            parent, _, child = name.rpartition(".")
            setattr(self.base.get_submodule(parent), child, made.eval())

    def assign(self, slot: int, weights: AdapterWeights) -> None:
        """Gives a slot an adapter.

        Args:
            slot: Number of the slot.
            weights: What `weights_of` returned for a network with the same layers.
        """
        if self._assigned[slot] is weights:
            return
        # None until all layers have theirs: one that fails half-way must not count as assigned.
        self._assigned[slot] = None
        with torch.inference_mode():
            for name, layer in self._layers.items():
                layer.down_SRI[slot] = weights[f"{name}.down"]
                layer.up_SOR[slot] = weights[f"{name}.up"]
        self._assigned[slot] = weights
        self.num_assigned += 1

    def run(self, rows: slice) -> None:
        """Says which slots the next pass has."""
        for layer in self._layers.values():
            layer.rows = rows


def share_tensors(network: nn.Module) -> Any:
    """A copy of the modules of a network, with the tensors of the network itself."""
    known = {id(one): one for one in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, known)


def weights_of(part: PretrainedPart) -> AdapterWeights | None:
    """The adapters of a decoder; None without any."""
    found: dict[str, Tensor] = {}
    for name, layer in part.base.named_modules():
        if isinstance(getattr(layer, "lora_A", None), nn.ModuleDict):
            of_peft: Any = layer
            ((key, down),) = of_peft.lora_A.items()
            found[f"{name}.down"] = down.weight.detach()
            found[f"{name}.up"] = of_peft.lora_B[key].weight.detach()
    return found or None
