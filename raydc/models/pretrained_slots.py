"""Generation with a pretrained decoder. Used in replicas and the driver.

transformers computes the layers; its caches are those of the slots, of a fixed size, in which a
token has the place of its position. So there is no padding before a document, which would turn its
positions, and a pass has the same shapes whatever it computes.

Shape suffixes: B slots of a pass, L tokens, T places of a slot, H heads, E width of a head, D
width, V codes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from raydc.models.cached_slots import CachedSlots, Keep, SlotPass, score_weights
from raydc.models.pretrained_decoders import (
    PretrainedDecoder,
    added_mask,
    most_positions,
    require_positions,
)
from raydc.models.slot_adapters import AdapterWeights, SlotAdapters


class PretrainedSlots(CachedSlots):
    """Slots of a `PretrainedDecoder`, with adapters or without. See `CachedSlots`.

    Args:
        decoder: The decoder in evaluation mode; its weights are used and not copied, but for those
            of the scores, if they are tied to the tokens.
        num_slots: Documents that are held at a time.
        length: Most tokens that a slot reads, no more than the network has positions.
        num_threads: Threads of a pass on a CPU.

    Raises:
        SpecError: The network has fewer positions.
    """

    def __init__(
        self, decoder: PretrainedDecoder, num_slots: int, length: int, num_threads: int = 1
    ) -> None:
        # Imported late: it takes seconds, and other models do not need it.
        from transformers import Cache

        base: Any = decoder.base
        self.adapters = SlotAdapters(decoder, num_slots)
        require_positions(base.config, length, "serve.generation.length")
        weights_VD = score_weights(base.get_input_embeddings(), decoder.head)
        super().__init__(num_slots, length, weights_VD, decoder.end_code, num_threads)
        self._base, self._is_fused = self.adapters.base, decoder.is_fused
        self._last_position = most_positions(base.config) - 1
        self._layers = [
            _make_layer(num_slots, len(self._places_T))
            for _ in range(int(base.config.num_hidden_layers))
        ]
        # The name changed in transformers 5.24.
        is_new = "cache" in inspect.signature(base.forward).parameters
        self._cache = {"cache" if is_new else "past_key_values": Cache(layers=self._layers)}
        self._prove_independence()

    def _run(self, tokens_BL: Tensor, positions_BL: Tensor, given: SlotPass) -> Tensor:
        self.adapters.run(given.rows)
        for layer in self._layers:
            layer.keep = given.keep
        mask_B1LT = self._may_see(positions_BL, given.num_places)
        found = self._base(
            input_ids=tokens_BL,
            attention_mask=mask_B1LT if self._is_fused else added_mask(mask_B1LT),
            # Places behind the last position hold no token; they only need some position.
            position_ids=positions_BL.clamp(max=self._last_position),
            use_cache=True,
            **self._cache,
        )
        x_BLD: Tensor = found.last_hidden_state
        return x_BLD

    def assign(self, slot: int, adapter: AdapterWeights) -> None:
        """Gives a slot an adapter, before it reads. See `SlotModel.assign`."""
        self.adapters.assign(slot, adapter)

    def _caches(self) -> Iterable[Tensor]:
        for layer in self._layers:
            yield from (layer.keys, layer.values)


def _make_layer(num_slots: int, num_places: int) -> Any:
    """The caches of a layer in the form of transformers.

    Args:
        num_slots: Slots of the caches.
        num_places: Places of a slot.
    """
    from transformers.cache_utils import CacheLayerMixin

    class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
        """Keys and values of a layer [S, H, T, E]; `keep` knows where new ones belong."""

        keep: Keep

        def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
            """Makes the caches, whose heads are known when the first tokens come."""
            self.keys, self.values = (
                torch.zeros(
                    (num_slots, one.shape[1], num_places, one.shape[3]),
                    dtype=one.dtype,
                    device=one.device,
                )
                for one in (key_states, value_states)
            )
            self.is_initialized = True

        def update(
            self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            """Stores what new tokens gave; returns what their slots hold, [B, H, T, E]."""
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            assert self.keys is not None
            assert self.values is not None
            return self.keep(self.keys, key_states), self.keep(self.values, value_states)

        # The mask and the positions are given, so that nobody asks for these.
        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
            """Number of places, and of the first one."""
            return num_places, 0

        def get_seq_length(self) -> int:
            """Tokens so far; it differs by slot."""
            return 0

        def get_max_length(self) -> int:
            """Number of places."""
            return num_places

    return SlotLayer()
