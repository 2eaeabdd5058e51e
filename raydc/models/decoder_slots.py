"""Generation with a decoder: slots keep what earlier tokens gave. Used in replicas, the driver.

A slot holds one document: the code that begins it, a prompt, and the tokens that follow.
`prefill` reads a prompt in chunks of a fixed size, one slot at a time; `step` reads one more token
of each slot that goes on, in a pass that always has all slots. No shape depends on how many slots
are used, so the scores of a document do not depend on what else is computed with it.

Shape suffixes: S slots, C tokens of a chunk, T places of a slot, D width, H heads, E width of a
head, V codes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.models.decoders import CausalDecoder, DecoderLayer, TokenLosses, Turn
from raydc.models.device import fixed_threads
from raydc.models.network_parts import Network

logger = logging.getLogger("ray.serve")

Scores = npt.NDArray[np.float32]
# Enough rows for matrices to be multiplied fast, and few enough that others wait for milliseconds.
CHUNK_TOKENS = 64
# A shorter chunk takes as long: its matrices have to be read anyway.
_LEAST_CHUNK = 8
# Steps of the proof that no slot depends on its number.
_NUM_PROVED = 3


class SlotModel(Protocol):
    """What generation needs of a model: a number of documents that grow independently."""

    num_slots: int
    """Documents that it holds at a time."""
    max_tokens: int
    """Most tokens that a slot reads."""
    chunk_tokens: int
    """Most tokens of one `prefill`."""
    rows_per_pass: int
    """Slots of a pass of `step`: all of them, or one if their order changes bits."""

    def prefill(self, slot: int, codes: Sequence[int], start: int) -> Scores:
        """Reads the next tokens of a slot.

        Args:
            slot: Number of the slot; at `start` 0 what it held before is forgotten.
            codes: At most `chunk_tokens` codes.
            start: Tokens that the slot has read already, a multiple of `chunk_tokens`.

        Returns:
            Scores of the token behind the last one, [V].
        """

    def step(self, codes: Mapping[int, int]) -> Scores:
        """Reads one token of each of some slots.

        Args:
            codes: The code by slot.

        Returns:
            Scores of the tokens behind them, [S, V]; rows of other slots mean nothing.
        """

    def clear(self, slot: int) -> None:
        """Removes all traces of a slot whose scores were not finite numbers."""


def has_slots(network: nn.Module) -> bool:
    """Whether `make_slots` knows how a network of a bundle continues documents."""
    return isinstance(network, Network) and isinstance(network.body, TokenLosses)


def make_slots(network: nn.Module, num_slots: int, num_threads: int = 1) -> SlotModel:
    """Makes slots for a network of a bundle that predicts tokens.

    Args:
        network: A network in evaluation mode, on the device where it computes.
        num_slots: Documents that are held at a time.
        num_threads: Threads of a pass on a CPU.

    Raises:
        ValueError: The network does not predict tokens.
    """
    body = network.body if isinstance(network, Network) else None
    if not isinstance(body, TokenLosses):
        raise ValueError(f"{type(network).__name__} does not predict tokens")
    return DecoderSlots(body.decoder, num_slots, num_threads)


def prefill_all(slots: SlotModel, slot: int, codes: Sequence[int]) -> Scores:
    """Reads a document into a slot, chunk by chunk.

    Args:
        slots: Slots of a model.
        slot: Number of the slot.
        codes: All codes, the one that begins the document included.

    Returns:
        Scores of the token behind the last one, [V].
    """
    for start in range(0, len(codes), slots.chunk_tokens):
        scores_V = slots.prefill(slot, codes[start : start + slots.chunk_tokens], start)
    return scores_V


class DecoderSlots:
    """Slots of a `CausalDecoder`. See `SlotModel`; belongs to one thread at a time.

    Args:
        decoder: The decoder in evaluation mode; its weights are used and not copied, but for those
            of the scores, if they are tied to the tokens.
        num_slots: Documents that are held at a time.
        num_threads: Threads of a pass on a CPU.
    """

    def __init__(self, decoder: CausalDecoder, num_slots: int, num_threads: int = 1) -> None:
        self.num_slots = num_slots
        angles_LE = decoder.angles_LE
        assert isinstance(angles_LE, Tensor)
        # A row has one token more than it reads: the last is only predicted.
        self.max_tokens = len(angles_LE) - 1
        self.chunk_tokens = min(CHUNK_TOKENS, self.max_tokens)
        self._decoder = decoder
        self._num_threads = num_threads
        self._layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
        self._cosine_LE, self._sine_LE = angles_LE.cos(), angles_LE.sin()
        # At least one place more than tokens, where slots write that have no token in a step.
        num_places = (self.max_tokens // self.chunk_tokens + 1) * self.chunk_tokens
        shape = (num_slots, self._layers[0].num_heads, num_places, 2 * angles_LE.shape[1])
        self._keys, self._values = (
            [torch.zeros(shape, device=angles_LE.device) for _ in self._layers] for _ in range(2)
        )
        self._places_T = torch.arange(num_places, device=angles_LE.device)
        self._lengths = [0] * num_slots
        if decoder.head is None:
            # By input and not by code, as `store_by_input` of a bundle does with linear layers.
            self._weights_VD = decoder.tokens.weight.detach().t().contiguous().t()
        else:
            self._weights_VD = decoder.head.weight.detach()
        self.rows_per_pass = num_slots
        if not self._is_independent():
            logger.warning("each slot is computed alone: its number would change its scores")
            self.rows_per_pass = 1

    def prefill(self, slot: int, codes: Sequence[int], start: int) -> Scores:
        """Reads the next tokens of a slot. See `SlotModel.prefill`."""
        count = len(codes)
        # A function of the prompt alone, and few shapes; short prompts are read faster.
        size = min(self.chunk_tokens, max(_LEAST_CHUNK, 1 << (count - 1).bit_length()))
        padded = [*codes, *[self._decoder.end_code] * (size - count)]
        self._lengths[slot] = start + count
        with torch.inference_mode(), fixed_threads(self._num_threads):
            tokens_1C = torch.tensor([padded], device=self._places_T.device)
            positions_1C = self._places_T[start : start + size][None]
            rows, places = slice(slot, slot + 1), slice(start, start + size)

            def keep(caches: Tensor, found_1HCE: Tensor) -> Tensor:
                caches[rows, :, places] = found_1HCE
                return caches[rows]

            x_1CD = self._run(tokens_1C, positions_1C, keep)
            scores_V: Scores = self._score(x_1CD[:, count - 1])[0]
            return scores_V

    def step(self, codes: Mapping[int, int]) -> Scores:
        """Reads one token of each of some slots. See `SlotModel.step`."""
        unused = len(self._places_T) - 1
        tokens = [codes.get(slot, self._decoder.end_code) for slot in range(self.num_slots)]
        positions = [
            self._lengths[slot] if slot in codes else unused for slot in range(self.num_slots)
        ]
        for slot in codes:
            self._lengths[slot] += 1
        with torch.inference_mode(), fixed_threads(self._num_threads):
            tokens_S1 = torch.tensor(tokens, device=self._places_T.device)[:, None]
            positions_S1 = torch.tensor(positions, device=self._places_T.device)[:, None]
            starts = range(0, self.num_slots, self.rows_per_pass)
            return np.concatenate([self._step_rows(tokens_S1, positions_S1, one) for one in starts])

    def _step_rows(self, tokens_S1: Tensor, positions_S1: Tensor, start: int) -> Scores:
        rows = slice(start, start + self.rows_per_pass)
        slots_R = torch.arange(self.num_slots, device=tokens_S1.device)[rows]
        places_R = positions_S1[rows, 0]

        def keep(caches: Tensor, found_RH1E: Tensor) -> Tensor:
            caches[slots_R, :, places_R] = found_RH1E[:, :, 0]
            return caches[rows]

        return self._score(self._run(tokens_S1[rows], positions_S1[rows], keep)[:, 0])

    def clear(self, slot: int) -> None:
        """Removes all traces of a slot. See `SlotModel.clear`."""
        for caches in (*self._keys, *self._values):
            caches[slot].zero_()

    def _run(self, tokens_BL: Tensor, positions_BL: Tensor, keep: Any) -> Tensor:
        """Runs all layers; `keep` stores what new tokens gave and returns what they may look at."""
        last = len(self._cosine_LE) - 1
        # Places behind the last token hold no token; they only need some angle.
        angles_BL = positions_BL.clamp(max=last)
        turn: Turn = self._cosine_LE[angles_BL][:, None], self._sine_LE[angles_BL][:, None]
        mask_B1LT = (self._places_T <= positions_BL[:, :, None])[:, None]
        x_BLD: Tensor = self._decoder.tokens(tokens_BL)
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            query, key, value = layer.project(x_BLD, turn)
            read_BHLE = functional.scaled_dot_product_attention(
                query, keep(keys, key), keep(values, value), attn_mask=mask_B1LT
            )
            x_BLD = layer.add_parts(x_BLD, read_BHLE)
        return x_BLD

    def _score(self, x_BD: Tensor) -> Scores:
        scores: Scores = (
            functional.linear(self._decoder.norm(x_BD), self._weights_VD).float().cpu().numpy()
        )
        return scores

    def _is_independent(self) -> bool:
        """Whether equal documents have the same bits in all slots. The passes are a warm-up too."""
        num_codes = self._decoder.tokens.num_embeddings
        # Half a chunk, so that some steps fit behind it.
        count = max(1, min(num_codes, self.chunk_tokens) // 2)
        codes = [self._decoder.end_code, *range(count - 1)]
        for slot in range(self.num_slots):
            self.prefill(slot, codes, 0)
        is_equal = True
        for code in range(min(_NUM_PROVED, self.max_tokens - len(codes))):
            scores_SV = self.step(dict.fromkeys(range(self.num_slots), code % num_codes))
            is_equal = is_equal and bool((scores_SV == scores_SV[0]).all())
        self._lengths = [0] * self.num_slots
        return is_equal
