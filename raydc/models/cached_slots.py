"""Slots with caches of what earlier tokens gave, for any network. Used in replicas, the driver.

A slot holds one document: what begins it, a prompt, and the tokens that follow. `prefill` reads a
prompt in chunks of a fixed size, one slot at a time; `step` reads one more token of each slot that
goes on, in a pass that always has all slots. No shape depends on how many slots are used, so the
scores of a document do not depend on what else is computed with it.

Shape suffixes: S slots, R slots of a pass, C tokens of a chunk, T places of a slot, D width,
H heads, E width of a head, V codes.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.models.device import fixed_threads

logger = logging.getLogger("ray.serve")

Scores = npt.NDArray[np.float32]
# Stores what new tokens gave, and returns what they may look at.
Keep = Callable[[Tensor, Tensor], Tensor]
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

    def assign(self, slot: int, adapter: Mapping[str, Tensor]) -> None:
        """Gives a slot an adapter, before it reads anything.

        Args:
            slot: Number of the slot.
            adapter: Tensors of an adapter of the base that the slots share.
        """


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


def score_weights(tokens: nn.Embedding, head: nn.Linear | None) -> Tensor:
    """Weights of the scores [V, D].

    Args:
        tokens: Vectors of the tokens.
        head: Last layer; None if its weights are those of the tokens.
    """
    if head is not None:
        return head.weight.detach()
    # By input and not by code, as `store_by_input` of a bundle does with linear layers.
    return tokens.weight.detach().t().contiguous().t()


class CachedSlots(ABC):
    """Slots of a network. See `SlotModel`; belongs to one thread at a time.

    Args:
        num_slots: Documents that are held at a time.
        max_tokens: Most tokens that a slot reads.
        weights_VD: Weights of the scores; used and not copied.
        filler: A code for places without a token.
        num_threads: Threads of a pass on a CPU.
    """

    def __init__(
        self, num_slots: int, max_tokens: int, weights_VD: Tensor, filler: int, num_threads: int
    ) -> None:
        self.num_slots, self.max_tokens = num_slots, max_tokens
        self.chunk_tokens = min(CHUNK_TOKENS, max_tokens)
        self.rows_per_pass = num_slots
        # At least one place more than tokens, where slots write that have no token in a step.
        num_places = (max_tokens // self.chunk_tokens + 1) * self.chunk_tokens
        self._places_T = torch.arange(num_places, device=weights_VD.device)
        self._lengths = [0] * num_slots
        self._weights_VD = weights_VD
        self._filler = filler
        self._num_threads = num_threads

    @abstractmethod
    def _run(self, tokens_BL: Tensor, positions_BL: Tensor, rows: slice, keep: Keep) -> Tensor:
        """Runs all layers for new tokens of some slots; returns their last vectors [B, L, D]."""

    @abstractmethod
    def _caches(self) -> Iterable[Tensor]:
        """All caches, [S, H, T, E] each."""

    def prefill(self, slot: int, codes: Sequence[int], start: int) -> Scores:
        """Reads the next tokens of a slot. See `SlotModel.prefill`."""
        count = len(codes)
        # A function of the prompt alone, and few shapes; short prompts are read faster.
        size = min(self.chunk_tokens, max(_LEAST_CHUNK, 1 << (count - 1).bit_length()))
        padded = [*codes, *[self._filler] * (size - count)]
        self._lengths[slot] = start + count
        with torch.inference_mode(), fixed_threads(self._num_threads):
            tokens_1C = torch.tensor([padded], device=self._places_T.device)
            positions_1C = self._places_T[start : start + size][None]
            rows, places = slice(slot, slot + 1), slice(start, start + size)

            def keep(caches: Tensor, found_1HCE: Tensor) -> Tensor:
                caches[rows, :, places] = found_1HCE
                return caches[rows]

            x_1CD = self._run(tokens_1C, positions_1C, rows, keep)
            scores_V: Scores = self.score(x_1CD[:, count - 1])[0]
            return scores_V

    def step(self, codes: Mapping[int, int]) -> Scores:
        """Reads one token of each of some slots. See `SlotModel.step`."""
        unused = len(self._places_T) - 1
        tokens = [codes.get(slot, self._filler) for slot in range(self.num_slots)]
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

        return self.score(self._run(tokens_S1[rows], positions_S1[rows], rows, keep)[:, 0])

    def clear(self, slot: int) -> None:
        """Removes all traces of a slot. See `SlotModel.clear`."""
        # Caches that were made in a pass cannot be changed outside of this mode.
        with torch.inference_mode():
            for caches in self._caches():
                caches[slot].zero_()

    def assign(self, slot: int, adapter: Mapping[str, Tensor]) -> None:
        """Refuses an adapter: only some networks have them. See `SlotModel.assign`."""
        raise TypeError(
            f"slot {slot} of {type(self).__name__} cannot have an adapter of {len(adapter)} tensors"
        )

    def _may_see(self, positions_BL: Tensor) -> Tensor:
        """Whether a token may look at a place of its slot, bool [B, 1, L, T]."""
        return (self._places_T <= positions_BL[:, :, None])[:, None]

    def score(self, x_BD: Tensor) -> Scores:
        scores: Scores = functional.linear(x_BD, self._weights_VD).float().cpu().numpy()
        return scores

    def _prove_independence(self) -> None:
        """Computes each slot alone if its number would change its bits. Is a warm-up, too."""
        num_codes = len(self._weights_VD)
        # Half a chunk, so that some steps fit behind it.
        count = max(1, min(num_codes, self.chunk_tokens) // 2)
        codes = [self._filler, *range(count - 1)]
        for slot in range(self.num_slots):
            self.prefill(slot, codes, 0)
        is_equal = True
        for code in range(min(_NUM_PROVED, self.max_tokens - len(codes))):
            scores_SV = self.step(dict.fromkeys(range(self.num_slots), code % num_codes))
            is_equal = is_equal and bool((scores_SV == scores_SV[0]).all())
        self._lengths = [0] * self.num_slots
        if not is_equal:
            logger.warning("each slot is computed alone: its number would change its scores")
            self.rows_per_pass = 1
