"""Slots of pretrained decoders: the scores of transformers, whatever the other slots hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_folders import END_CODE, VOCABULARY, decoder_spec, tokenizer_json, write_decoder

from raydc import models
from raydc import spec as specs
from raydc.bundle.padding import store_by_input
from raydc.errors import SpecError
from raydc.features import Signature, token_block
from raydc.models.cached_slots import CHUNK_TOKENS, prefill_all
from raydc.models.decoder_slots import find_adapter, has_slots, make_slots
from raydc.models.network_parts import Network
from raydc.models.pretrained_slots import PretrainedSlots
from raydc.spec.decoder_folder import DECODERS

# Longer than a chunk, and no multiple of one.
POSITIONS = CHUNK_TOKENS + 9
LORA = {"rank": 2, "targets": ["q_proj", "down_proj"]}
FORMS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"attention": form}) for kind in DECODERS for form in ("eager", "sdpa")),
    ("llama", {"lora": LORA}),
    ("qwen2", {"lora": LORA, "attention": "sdpa"}),
    # Its layers have their weights the other way round.
    ("gpt2", {"lora": {"rank": 2, "targets": ["c_attn", "c_fc"]}}),
]


def build(folder: Path, kind: str = "llama", length: int = 16, **model: Any) -> Network:
    """A decoder whose rows have 16 tokens, and which has more positions."""
    places = "n_positions" if kind == "gpt2" else "max_position_embeddings"
    more: dict[str, Any] = {places: POSITIONS}
    if kind in ("qwen2", "starcoder2"):
        more["tie_word_embeddings"] = False
    if kind == "gpt2":
        more |= {"n_embd": 16, "n_layer": 2, "n_head": 2}
    made = write_decoder(folder / kind, kind, **more)
    section = specs.resolve(specs.from_dict(decoder_spec(made, **model))).model
    column = token_block.of_tokenizer(tokenizer_json(), VOCABULARY[END_CODE], length, "none")
    signature = Signature(
        "record",
        (),
        "",
        (),
        (),
        "language_modelling",
        fields={"text": column.field},
        num_values=length,
    )
    network = models.build(section, signature, 0).eval()
    with torch.no_grad():
        for name, weights in network.named_parameters():
            # The first B of an adapter is zero, and would add nothing.
            if "lora_B" in name:
                weights.add_(torch.randn_like(weights))
    store_by_input(network)
    return network


def slots_of(network: Network, num_slots: int, length: int = POSITIONS) -> PretrainedSlots:
    made = make_slots(network, num_slots, length=length)
    assert isinstance(made, PretrainedSlots)
    return made


def codes_of(count: int, seed: int) -> list[int]:
    most = len(VOCABULARY)
    return [END_CODE, *np.random.default_rng(seed).integers(2, most, size=count - 1).tolist()]


def uncached(network: Any, codes: list[int]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: np.ndarray[Any, Any] = network.body.decoder(torch.tensor([codes]))[0].numpy()
    return found


@pytest.mark.parametrize(("kind", "model"), FORMS, ids=str)
def test_scores_are_those_of_the_whole_text_in_any_company(
    tmp_path: Path, kind: str, model: dict[str, Any]
) -> None:
    network = build(tmp_path, kind, **model)
    assert has_slots(network)
    codes, num_prompt = codes_of(POSITIONS, 1), POSITIONS - 12
    expected_LV = uncached(network, codes)
    slots = slots_of(network, 4)
    alone = [prefill_all(slots, 0, codes[:num_prompt])]
    alone += [slots.step({0: code})[0] for code in codes[num_prompt:]]
    np.testing.assert_allclose(np.stack(alone), expected_LV[num_prompt - 1 :], atol=2e-4)
    # The same document in another slot, that held others; these come and go meanwhile.
    prefill_all(slots, 3, codes_of(POSITIONS, 2))
    prefill_all(slots, 1, codes_of(9, 3))
    prefill_all(slots, 2, codes_of(POSITIONS - 4, 5))
    found = [prefill_all(slots, 3, codes[:num_prompt])]
    for number, code in enumerate(codes[num_prompt:]):
        if number == 4:
            slots.prefill(0, codes_of(30, 4), 0)
        others = {1: 7 + number % 5} if number % 3 else {}
        # It needs more places than the document.
        if number in (1, 2):
            others[2] = 7
        found.append(slots.step({3: code, **others})[3])
    assert [one.tobytes() for one in found] == [one.tobytes() for one in alone]


def test_slots_that_are_computed_alone_give_the_same_scores(tmp_path: Path) -> None:
    network = build(tmp_path)
    together, alone = slots_of(network, 4), slots_of(network, 4)
    assert together.rows_per_pass == 4
    alone.rows_per_pass = 1
    for slots in (together, alone):
        for slot in range(4):
            prefill_all(slots, slot, codes_of(20, 1)[: 3 + slot])
    first = together.step(dict.fromkeys(range(4), 9))
    np.testing.assert_allclose(first, alone.step(dict.fromkeys(range(4), 9)), atol=1e-5)
    assert np.unique(first, axis=0).shape[0] == 4


def test_a_cleared_slot_has_no_trace_of_numbers_that_are_not_finite(tmp_path: Path) -> None:
    slots = slots_of(build(tmp_path), 2)
    expected = prefill_all(slots, 0, codes_of(5, 1))
    with torch.inference_mode():
        for caches in slots._caches():
            caches[0, :, 20] = torch.nan
    slots.clear(0)
    assert prefill_all(slots, 0, codes_of(5, 1)).tobytes() == expected.tobytes()


def test_a_slot_reads_a_row_of_the_training_or_what_the_endpoint_says(tmp_path: Path) -> None:
    network = build(tmp_path)
    assert make_slots(network, 1).max_tokens == 16
    assert slots_of(network, 1, POSITIONS).max_tokens == POSITIONS
    with pytest.raises(SpecError, match=rf"generation\.length: {POSITIONS + 1} tokens are more"):
        make_slots(network, 1, length=POSITIONS + 1)


def test_a_network_goes_on_as_before(tmp_path: Path) -> None:
    """The caches belong to the slots: evaluation with the same network does not see them."""
    network = build(tmp_path)
    before = uncached(network, codes_of(12, 1))
    prefill_all(slots_of(network, 2), 0, codes_of(40, 2))
    assert uncached(network, codes_of(12, 1)).tobytes() == before.tobytes()


def test_an_adapter_that_is_assigned_half_is_not_taken_for_assigned(tmp_path: Path) -> None:
    network = build(tmp_path, lora=LORA)
    slots, own = slots_of(network, 1), find_adapter(network)
    assert own is not None
    expected = prefill_all(slots, 0, codes_of(9, 1))
    half = dict(list({name: 2 * one for name, one in own.items()}.items())[:-1])
    for _ in range(2):
        with pytest.raises(KeyError):
            slots.assign(0, half)
    slots.assign(0, own)
    assert prefill_all(slots, 0, codes_of(9, 1)).tobytes() == expected.tobytes()
