"""Slots of a decoder: the scores of the network without them, whatever the other slots hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from token_rows import END, MODEL, token_features

from raydc import models
from raydc.models.cached_slots import CHUNK_TOKENS, SlotPass, prefill_all
from raydc.models.decoder_slots import DecoderSlots, has_slots, make_slots
from raydc.models.decoders import TokenLosses
from raydc.models.network_parts import Network
from raydc.spec.sequence_models import Decoder

# Longer than a chunk, and no multiple of one.
LENGTH = 2 * CHUNK_TOKENS + 7
FORMS: list[dict[str, Any]] = [
    {},
    {"norm": "layer", "activation": "swiglu", "tied": False, "feed_forward": 24},
]


def build(length: int = LENGTH, **fields: Any) -> Network:
    section = Decoder(**{**MODEL, "dropout": 0.0, **fields})
    network = models.build(section, token_features(length).signature, 0).eval()
    with torch.no_grad():
        for weights in network.parameters():
            # First weights are so small that scores hardly depend on earlier tokens.
            weights.mul_(8.0 if weights.ndim > 1 else 1.0)
    return network


def slots_of(network: Network, num_slots: int) -> DecoderSlots:
    made = make_slots(network, num_slots)
    assert isinstance(made, DecoderSlots)
    return made


Change = Callable[[SlotPass, torch.Tensor], torch.Tensor]


class WatchedSlots(DecoderSlots):
    """Two slots that note how many places each pass looks at, and may change what it gives.

    Args:
        network: Network of the slots.
        change: Gets a pass and what its layers return, and returns other numbers.
    """

    def __init__(self, network: Network, change: Change | None = None) -> None:
        assert isinstance(network.body, TokenLosses)
        self.seen: list[int] = []
        self._change = change
        super().__init__(network.body.decoder, 2)
        self.seen.clear()

    def _run(
        self, tokens_BL: torch.Tensor, positions_BL: torch.Tensor, given: SlotPass
    ) -> torch.Tensor:
        self.seen.append(given.num_places)
        x_BLD = super()._run(tokens_BL, positions_BL, given)
        return x_BLD if self._change is None else self._change(given, x_BLD)


def codes_of(count: int, seed: int) -> list[int]:
    return [END, *np.random.default_rng(seed).integers(END, size=count - 1).tolist()]


def uncached(network: Network, codes: list[int]) -> np.ndarray[Any, Any]:
    assert isinstance(network.body, TokenLosses)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = network.body.decoder(torch.tensor([codes]))[0].numpy()
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("num_prompt", [1, 5, CHUNK_TOKENS, CHUNK_TOKENS + 1, LENGTH - 1])
def test_scores_are_those_of_the_whole_row(form: dict[str, Any], num_prompt: int) -> None:
    network = build(**form)
    slots = slots_of(network, 2)
    codes = codes_of(LENGTH, num_prompt)
    expected_LV = uncached(network, codes)
    found = [prefill_all(slots, 1, codes[:num_prompt])]
    found += [slots.step({1: code})[1] for code in codes[num_prompt:]]
    np.testing.assert_allclose(np.stack(found), expected_LV[num_prompt - 1 :], atol=2e-4)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_bits_do_not_depend_on_the_slot_or_on_others(form: dict[str, Any]) -> None:
    slots = slots_of(build(**form), 4)
    codes, start = codes_of(90, 1), 70
    alone = [prefill_all(slots, 0, codes[:start])]
    alone += [slots.step({0: code})[0] for code in codes[start:]]
    # The same document in another slot, that held others; these come and go meanwhile.
    prefill_all(slots, 3, codes_of(LENGTH, 2))
    prefill_all(slots, 1, codes_of(9, 3))
    # A pass looks at as many places as its longest document needs.
    prefill_all(slots, 2, codes_of(LENGTH - 20, 5))
    found = [prefill_all(slots, 3, codes[:start])]
    for number, code in enumerate(codes[start:]):
        if number == 4:
            slots.prefill(0, codes_of(30, 4), 0)
        others = {1: number % END} if number % 3 else {}
        if number % 4 > 1:
            others[2] = number % END
        found.append(slots.step({3: code, **others})[3])
    for first, second in zip(alone, found, strict=True):
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("seed", range(4))
def test_bits_at_borders_between_sizes_do_not_depend_on_changing_company(seed: int) -> None:
    length = 5 * CHUNK_TOKENS
    slots, random = slots_of(build(length), 3), np.random.default_rng(seed)
    borders = [n * CHUNK_TOKENS + more for n in (1, 2, 4) for more in (-3, -2, -1, 0, 1)]
    for number in range(4):
        count, mine = int(random.choice(borders)), int(random.integers(3))
        codes = codes_of(count + 5, number)
        alone = [prefill_all(slots, 0, codes[:count])]
        alone += [slots.step({0: code})[0] for code in codes[count:]]
        read = {slot: 0 for slot in range(3) if slot != mine}
        found = [prefill_all(slots, mine, codes[:count])]
        for code in codes[count:]:
            for slot in read:
                # Documents of all lengths come and go between the steps.
                if not read[slot] or random.random() < 0.3:
                    read[slot] = int(random.choice([*borders, 1, length - 9]))
                    prefill_all(slots, slot, codes_of(read[slot], slot))
            others = {slot: int(random.integers(END)) for slot in read if random.random() < 0.6}
            read |= {slot: read[slot] + 1 for slot in others}
            found.append(slots.step({mine: code, **others})[mine])
        assert [one.tobytes() for one in found] == [one.tobytes() for one in alone]


def test_a_pass_looks_at_the_places_that_its_longest_document_needs() -> None:
    slots = WatchedSlots(build())
    all_places = LENGTH // CHUNK_TOKENS * CHUNK_TOKENS + CHUNK_TOKENS
    prefill_all(slots, 0, codes_of(9, 1))
    prefill_all(slots, 1, codes_of(CHUNK_TOKENS + 9, 1))
    slots.step({0: 1})
    slots.step({0: 1, 1: 1})
    prefill_all(slots, 1, codes_of(2 * CHUNK_TOKENS, 1))
    slots.step({1: 1})
    slots.step({0: 1})
    short, middle = CHUNK_TOKENS, 2 * CHUNK_TOKENS
    prefills = [short, short, middle]
    assert slots.seen == [*prefills, short, middle, short, middle, all_places, short]


def test_passes_look_at_all_places_where_fewer_change_bits() -> None:
    slots = WatchedSlots(build(), lambda given, x_BLD: x_BLD + 1e-3 * given.num_places)
    codes = codes_of(9, 1)
    prefill_all(slots, 0, codes)
    alone = slots.step({0: 1})[0]
    prefill_all(slots, 0, codes)
    prefill_all(slots, 1, codes_of(CHUNK_TOKENS + 9, 1))
    assert slots.step({0: 1, 1: 1})[0].tobytes() == alone.tobytes()
    assert len(set(slots.seen)) == 1


def test_places_are_proven_for_long_documents_where_slots_are_fewer_than_sizes() -> None:
    class LongSlots(WatchedSlots):
        """As a kernel might that cuts many places into parts; short texts lie in the first."""

        def _run(
            self, tokens_BL: torch.Tensor, positions_BL: torch.Tensor, given: SlotPass
        ) -> torch.Tensor:
            x_BLD = super()._run(tokens_BL, positions_BL, given)
            is_long_BL1 = (positions_BL > 2 * CHUNK_TOKENS)[..., None]
            return x_BLD + 1e-3 * given.num_places * is_long_BL1

    slots = LongSlots(build(5 * CHUNK_TOKENS))
    codes = codes_of(3 * CHUNK_TOKENS, 1)
    prefill_all(slots, 0, codes)
    alone = slots.step({0: 1})[0]
    prefill_all(slots, 0, codes)
    prefill_all(slots, 1, codes_of(4 * CHUNK_TOKENS + 9, 1))
    assert slots.step({0: 1, 1: 1})[0].tobytes() == alone.tobytes()


def test_each_slot_is_computed_alone_where_its_number_changes_bits() -> None:
    def add_number(given: SlotPass, x_BLD: torch.Tensor) -> torch.Tensor:
        # As a kernel for long documents might.
        is_long = given.num_places > CHUNK_TOKENS
        return x_BLD + 1e-3 * is_long * torch.arange(len(x_BLD))[:, None, None]

    slots = WatchedSlots(build(), add_number)
    assert slots.rows_per_pass == 1
    assert slots_of(build(), 2).rows_per_pass == 2


def test_a_slot_that_pauses_keeps_what_it_has_read() -> None:
    slots = slots_of(build(), 3)
    codes, other = codes_of(40, 1), codes_of(40, 2)
    expected = [prefill_all(slots, 0, codes[:10])]
    expected += [slots.step({0: code})[0] for code in codes[10:20]]
    found = [prefill_all(slots, 0, codes[:10])]
    prefill_all(slots, 2, other[:5])
    for number, code in enumerate(codes[10:20]):
        # Steps of another one, in which this one has no token.
        for step in range(2):
            slots.step({2: other[5 + 2 * number + step]})
        found.append(slots.step({0: code})[0])
    assert [one.tobytes() for one in found] == [one.tobytes() for one in expected]


def test_slots_that_are_computed_alone_give_the_same_scores() -> None:
    network = build()
    together, alone = slots_of(network, 4), slots_of(network, 4)
    assert together.rows_per_pass == 4
    alone.rows_per_pass = 1
    codes = codes_of(20, 1)
    for slots in (together, alone):
        for slot in range(4):
            prefill_all(slots, slot, codes[: 3 + slot])
    first = together.step(dict.fromkeys(range(4), 7))
    np.testing.assert_allclose(first, alone.step(dict.fromkeys(range(4), 7)), atol=1e-5)
    assert np.unique(first, axis=0).shape[0] == 4


def test_a_cleared_slot_has_no_trace_of_numbers_that_are_not_finite() -> None:
    network = build()
    slots = slots_of(network, 2)
    codes = codes_of(5, 1)
    expected = prefill_all(slots, 0, codes)
    slots._keys[0][0, :, 20], slots._values[0][0, :, 20] = torch.nan, torch.nan
    slots.clear(0)
    assert prefill_all(slots, 0, codes).tobytes() == expected.tobytes()


def test_a_network_of_rows_has_no_slots() -> None:
    assert has_slots(build())
    assert not has_slots(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Linear does not predict tokens"):
        make_slots(torch.nn.Linear(2, 2), 1)
