"""Generation with a decoder from scratch, and slots for any network. Used in replicas, the driver.

Shape suffixes: B slots of a pass, L tokens, T places of a slot, D width, H heads, E width of a
head, V codes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.models.cached_slots import CachedSlots, Scores, SlotModel, SlotPass, score_weights
from raydc.models.decoders import CausalDecoder, DecoderLayer, TokenLosses, Turn
from raydc.models.network_parts import Network
from raydc.models.pretrained_decoders import DocumentLosses
from raydc.models.pretrained_slots import PretrainedSlots
from raydc.models.slot_adapters import AdapterWeights, weights_of


def has_slots(network: nn.Module) -> bool:
    """Whether `make_slots` knows how a network of a bundle continues documents."""
    return isinstance(network, Network) and isinstance(network.body, TokenLosses | DocumentLosses)


def make_slots(
    network: nn.Module, num_slots: int, num_threads: int = 1, length: int | None = None
) -> SlotModel:
    """Makes slots for a network of a bundle that predicts tokens.

    Args:
        network: A network in evaluation mode, on the device where it computes.
        num_slots: Documents that are held at a time.
        num_threads: Threads of a pass on a CPU.
        length: Most tokens that a slot of a pretrained network reads; None takes as many as a row
            of its training has, which is what any other network reads.

    Raises:
        ValueError: The network does not predict tokens.
        SpecError: It has fewer positions.
    """
    body = network.body if isinstance(network, Network) else None
    if isinstance(body, TokenLosses):
        return DecoderSlots(body.decoder, num_slots, num_threads)
    if isinstance(body, DocumentLosses):
        wanted = body.length if length is None else length
        return PretrainedSlots(body.decoder, num_slots, wanted, num_threads)
    raise ValueError(f"{type(network).__name__} does not predict tokens")


def find_adapter(network: nn.Module) -> AdapterWeights | None:
    """The adapter of a network of a bundle, for slots that others use as well; None without one."""
    body = network.body if isinstance(network, Network) else None
    return weights_of(body.decoder) if isinstance(body, DocumentLosses) else None


class DecoderSlots(CachedSlots):
    """Slots of a `CausalDecoder`. See `CachedSlots`.

    Args:
        decoder: The decoder in evaluation mode; its weights are used and not copied, but for those
            of the scores, if they are tied to the tokens.
        num_slots: Documents that are held at a time.
        num_threads: Threads of a pass on a CPU.
    """

    def __init__(self, decoder: CausalDecoder, num_slots: int, num_threads: int = 1) -> None:
        angles_LE = decoder.angles_LE
        assert isinstance(angles_LE, Tensor)
        weights_VD = score_weights(decoder.tokens, decoder.head)
        # A row has one token more than it reads: the last is only predicted.
        super().__init__(num_slots, len(angles_LE) - 1, weights_VD, decoder.end_code, num_threads)
        self._decoder = decoder
        self._layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
        self._cosine_LE, self._sine_LE = angles_LE.cos(), angles_LE.sin()
        num_heads, num_places = self._layers[0].num_heads, len(self._places_T)
        shape = (num_slots, num_heads, num_places, 2 * angles_LE.shape[1])
        self._keys, self._values = (
            [torch.zeros(shape, device=angles_LE.device) for _ in self._layers] for _ in range(2)
        )
        self._prove_independence()

    def _run(self, tokens_BL: Tensor, positions_BL: Tensor, given: SlotPass) -> Tensor:
        last = len(self._cosine_LE) - 1
        # Places behind the last token hold no token; they only need some angle.
        angles_BL = positions_BL.clamp(max=last)
        turn: Turn = self._cosine_LE[angles_BL][:, None], self._sine_LE[angles_BL][:, None]
        mask_B1LT = self._may_see(positions_BL, given.num_places)
        x_BLD: Tensor = self._decoder.tokens(tokens_BL)
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            query, key, value = layer.project(x_BLD, turn)
            read_BHLE = functional.scaled_dot_product_attention(
                query, given.keep(keys, key), given.keep(values, value), attn_mask=mask_B1LT
            )
            x_BLD = layer.add_parts(x_BLD, read_BHLE)
        return x_BLD

    def score(self, x_BD: Tensor) -> Scores:
        """Scores of the next token, of outputs of the last layer before they are normalised."""
        return super().score(self._decoder.norm(x_BD))

    def _caches(self) -> Iterable[Tensor]:
        return (*self._keys, *self._values)
