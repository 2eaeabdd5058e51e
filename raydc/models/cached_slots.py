"""Slots with caches of what earlier tokens gave, for any network. Used in replicas, the driver.

A slot holds one document: what begins it, a prompt, and the tokens that follow. `prefill` reads a
prompt in chunks of a fixed size, one slot at a time; `step` reads one more token of each slot that
goes on, in a pass that always has all slots. No shape depends on how many slots are used, so the
scores of a document do not depend on what else is computed with it. Only the places that a pass
looks at are as many as its longest document needs, where it is proven that this changes no bit.

Shape suffixes: S slots, R slots of a pass, C tokens of a chunk, T places of a slot, D width,
H heads, E width of a head, V codes.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.models.device import fixed_threads

logger = logging.getLogger("ray.serve")

Scores = npt.NDArray[np.float32]
# Stores what new tokens gave, and returns the places that they may look at.
Keep = Callable[[Tensor, Tensor], Tensor]
# Enough rows for matrices to be multiplied fast, and few enough that others wait for milliseconds.
CHUNK_TOKENS = 64
# A shorter chunk takes as long: its matrices have to be read anyway.
_LEAST_CHUNK = 8
# Steps of the proof that no slot depends on its number.
_NUM_PROVED = 3
# Places without a token at the end of the document of a proof, so that some are masked.
_NUM_FREE = 3


@dataclass(frozen=True)
class SlotPass:
    """What a pass computes.

    Attributes:
        rows: Slots of the pass.
        num_places: Places of a slot that it looks at, the first ones; they hold all tokens.
        keep: Stores keys or values of the new tokens in a cache [S, H, T, E]; returns what the
            slots of the pass hold in these places.
    """

    rows: slice
    num_places: int
    keep: Keep


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
        # Few sizes, so that there are few shapes.
        self._sizes = [num_places]
        while (size := self.chunk_tokens << (len(self._sizes) - 1)) < num_places:
            self._sizes.insert(-1, size)
        self._lengths = [0] * num_slots
        self._weights_VD = weights_VD
        self._filler = filler
        self._num_threads = num_threads

    @abstractmethod
    def _run(self, tokens_BL: Tensor, positions_BL: Tensor, given: SlotPass) -> Tensor:
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
            # A function of the prompt alone, too.
            num_places = self._size_for(start + size)

            def keep(caches: Tensor, found_1HCE: Tensor) -> Tensor:
                caches[rows, :, places] = found_1HCE
                return caches[rows, :, :num_places]

            x_1CD = self._run(tokens_1C, positions_1C, SlotPass(rows, num_places, keep))
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
            found = []
            for start in range(0, self.num_slots, self.rows_per_pass):
                rows = slice(start, start + self.rows_per_pass)
                used = [self._lengths[slot] for slot in codes if rows.start <= slot < rows.stop]
                num_places = self._size_for(max(used, default=0))
                found.append(self._step_rows(tokens_S1, positions_S1, rows, num_places))
            return np.concatenate(found)

    def _step_rows(
        self, tokens_S1: Tensor, positions_S1: Tensor, rows: slice, num_places: int
    ) -> Scores:
        slots_R = torch.arange(self.num_slots, device=tokens_S1.device)[rows]
        places_R = positions_S1[rows, 0]

        def keep(caches: Tensor, found_RH1E: Tensor) -> Tensor:
            caches[slots_R, :, places_R] = found_RH1E[:, :, 0]
            return caches[rows, :, :num_places]

        given = SlotPass(rows, num_places, keep)
        return self.score(self._run(tokens_S1[rows], positions_S1[rows], given)[:, 0])

    def _size_for(self, count: int) -> int:
        """Places that a pass looks at for documents of so many tokens."""
        return next(size for size in self._sizes if size >= count)

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

    def _may_see(self, positions_BL: Tensor, num_places: int) -> Tensor:
        """Whether a token may look at a place of its slot, bool [B, 1, L, T]."""
        return (self._places_T[:num_places] <= positions_BL[:, :, None])[:, None]

    def score(self, x_BD: Tensor) -> Scores:
        scores: Scores = functional.linear(x_BD, self._weights_VD).float().cpu().numpy()
        return scores

    def _prove_independence(self) -> None:
        """Leaves out what would change bits of a document in other company. Is a warm-up, too.

        Each slot is computed alone if its number would change them. Passes of several slots do not
        look at a number of places at which they would differ from those with all places.
        """
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
        if self.num_slots > 1:
            self._fill_caches()
            is_equal = is_equal and all(self._is_equal_in_all_slots(one) for one in self._sizes)
            if is_equal:
                self._sizes = [*filter(self._is_enough, self._sizes[:-1]), self._sizes[-1]]
            for slot in range(self.num_slots):
                self.clear(slot)
        self._lengths = [0] * self.num_slots
        if not is_equal:
            logger.warning("each slot is computed alone: its number would change its scores")
            self.rows_per_pass = 1

    def _fill_caches(self) -> None:
        """Fills all slots with the same random numbers, as if they had read a long document."""
        with torch.inference_mode():
            for number, caches in enumerate(self._caches()):
                caches[0].normal_(generator=torch.Generator(caches.device).manual_seed(number))
                caches[1:] = caches[0]

    def _is_equal_in_all_slots(self, size: int) -> bool:
        """Whether the same document has the same scores in all slots, in a pass of so many places.

        Args:
            size: One of the numbers of places.
        """
        self._lengths = [self._proof_length(size)] * self.num_slots
        scores_SV = self.step(dict.fromkeys(range(self.num_slots), self._filler))
        return bool((scores_SV == scores_SV[0]).all())

    def _is_enough(self, size: int) -> bool:
        """Whether documents that fit into so many places have the scores that all places give.

        Args:
            size: One of the numbers of places.
        """
        sizes = self._sizes
        fitting = [one for one in sizes if one <= size]
        is_equal = True
        # Long documents, too: where there are fewer slots than sizes, in several passes.
        for first in range(0, len(fitting), self.num_slots):
            turn = [(first + slot) % len(fitting) for slot in range(self.num_slots)]
            lengths = [self._proof_length(fitting[number]) for number in turn]
            found = []
            for num_places in (size, sizes[-1]):
                self._lengths, self._sizes = list(lengths), [num_places]
                found.append(self.step(dict.fromkeys(range(self.num_slots), self._filler)))
            is_equal = is_equal and bool((found[0] == found[1]).all())
        self._sizes = sizes
        return is_equal

    def _proof_length(self, size: int) -> int:
        """Tokens of a document that needs a number of places, some of which are free."""
        return max(0, min(size, self.max_tokens) - _NUM_FREE)
