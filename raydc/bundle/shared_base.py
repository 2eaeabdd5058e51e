"""Adapters of one base: bundles that share the tensors of a decoder. In the driver and replicas.

A bundle with adapters has all weights in `model.safetensors`, so that it needs no other one. The
adapters alone are in `adapter.safetensors`, too, and `facts.json` has a digest of all the rest. A
process that holds a bundle of the same digest reads the small file only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import nn

from raydc import checksummed_folder
from raydc.bundle.padding import store_by_input
from raydc.errors import CheckpointError
from raydc.features import Signature
from raydc.models import adapters
from raydc.models.network_parts import Network
from raydc.models.pretrained_decoders import DocumentLosses, read_rows
from raydc.models.slot_adapters import share_tensors
from raydc.spec import ResolvedSpec
from raydc.spec.sequence_models import HuggingFace
from raydc.storage import Storage, canonical_json

if TYPE_CHECKING:
    from raydc.bundle.folder import Bundle

FILE = "adapter.safetensors"
# Name of the digest in `facts.json`.
BASE = "base_digest"


def split_adapter(
    spec: ResolvedSpec, network: nn.Module, weights: dict[str, torch.Tensor]
) -> tuple[str, bytes] | None:
    """Digest of what adapters stand beside, and the content of their file; None without any.

    Args:
        spec: The resolved spec.
        network: Its network.
        weights: Contiguous tensors of its state, on the CPU.
    """
    model = spec.model
    is_decoder = isinstance(network, Network) and isinstance(network.body, DocumentLosses)
    if not isinstance(model, HuggingFace) or model.lora is None or not is_decoder:
        return None
    own = {name: one for name, one in weights.items() if adapters.is_added(name)}
    # Which layers have adapters is in their names and shapes.
    shapes = {name: list(one.shape) for name, one in own.items()}
    config = model.content.config if model.content else {}
    # What shapes the network, beside its tensors. Dropout has no effect in an endpoint.
    form = [config, model.attention, model.lora.alpha, spec.data.chat is None, shapes]
    digest = hashlib.sha256(canonical_json(form))
    for name in sorted(weights.keys() - own.keys()):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest(), safetensors.torch.save(own)


def find_base(
    folder: Storage, beside: Sequence[Bundle], device: str, threads: int
) -> Bundle | None:
    """Finds the bundle that has the base of another one; None if there is none.

    Args:
        folder: Folder of the other one, of which little is read.
        beside: Loaded bundles.
        device: Where the other one will compute.
        threads: Threads of its passes.
    """
    known = {one.facts.get(BASE): one for one in beside}
    known.pop(None, None)
    if not known:
        return None
    _, content = checksummed_folder.read_one(folder, "facts.json")
    found = known.get(json.loads(content).get(BASE))
    is_same = found is not None and (found.device, found.num_threads) == (device, threads)
    return found if is_same else None


def share_base(base: Bundle, adapter: bytes, signature: Signature) -> nn.Module:
    """A network with the tensors of another one, but for its adapters.

    Args:
        base: Bundle of the other one, which stays as it is.
        adapter: Content of the file of adapters.
        signature: Signature of the rows that the adapters were trained with.

    Raises:
        CheckpointError: The adapters are not those of such a network.
    """
    # Rows of the other one may be longer, have another name, or another token at their end.
    network = read_rows(share_tensors(base.model).body.decoder, signature)
    own = {k: one.to(base.device) for k, one in safetensors.torch.load(adapter).items()}
    # A new parameter for each, so that those of the other network stay.
    missing, unexpected = network.load_state_dict(own, strict=False, assign=True)
    left = [name for name in missing if adapters.is_added(name)]
    if left or unexpected:
        raise CheckpointError(
            f"the adapters do not fit their base: {', '.join([*left, *unexpected][:4])}",
            "Register the version again from its run.",
        )
    for layer in network.modules():
        for name in ("lora_A", "lora_B"):
            if isinstance(part := getattr(layer, name, None), nn.Module):
                store_by_input(part)
    return network.eval()
