"""A completion by a bundle: what ends it, what it repeats, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from language_models import LENGTH, TEXTS, block_of, write_language_bundle

from raydc import bundle
from raydc.bundle import Bundle
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions, GrowingAnswer, NotFiniteError
from raydc.errors import DataError
from raydc.features import PromptTexts
from raydc.models.decoder_slots import make_slots
from raydc.models.token_sampling import TokenSampling
from raydc.storage import Storage


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = Storage(str(tmp_path_factory.mktemp("completion") / "bundle"))
    write_language_bundle(folder)
    return bundle.load(folder)


def test_a_text_has_the_same_answer_in_one_slot_and_in_one_of_many(loaded: Bundle) -> None:
    slots = make_slots(loaded.model, 8)
    for text in TEXTS:
        options = AnswerOptions(12)
        assert complete(loaded, text[:9], options) == complete(loaded, text[:9], options, slots)


def test_an_answer_has_the_tokens_that_were_asked_for(loaded: Bundle) -> None:
    found = complete(loaded, "the cat", AnswerOptions(5))
    assert (len(found.codes), found.finish_reason) == (5, "length")
    assert complete(loaded, "the cat", AnswerOptions(9)).codes[:5] == found.codes


def test_the_end_of_a_document_ends_an_answer(loaded: Bundle) -> None:
    block = block_of(loaded.features)
    whole = complete(loaded, "the", AnswerOptions(20, TokenSampling(1.0, seed=2)))
    # The third token stands for the end, unless it came before.
    end = next(code for code in whole.codes[2:] if code not in whole.codes[:2])
    answer = GrowingAnswer(
        PromptTexts(replace(block, end_code=end)), [], AnswerOptions(20, TokenSampling(1.0, seed=2))
    )
    slots = make_slots(loaded.model, 1)
    text = answer.add(slots.prefill(0, [block.end_code, *block.encode("the", "")], 0))
    while answer.finish_reason is None:
        text += answer.add(slots.step({0: answer.codes[-1]})[0])
    assert answer.finish_reason == "stop"
    assert tuple(answer.codes) == whole.codes[: len(answer.codes)]
    assert answer.codes.index(end) == len(answer.codes) - 1
    assert whole.text.startswith(text)
    assert len(text) < len(whole.text)


def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(loaded: Bundle) -> None:
    sampling = TokenSampling(1.0, seed=4)
    whole = complete(loaded, "a", AnswerOptions(30, sampling))
    # It begins in the middle of the text, and is longer than most tokens.
    stop = whole.text[10:14]
    found = complete(loaded, "a", AnswerOptions(30, sampling, (stop,)))
    assert found.text == whole.text[: whole.text.index(stop)]
    assert found.finish_reason == "stop"
    assert len(found.codes) < len(whole.codes)


def test_a_seed_repeats_an_answer_and_another_gives_another(loaded: Bundle) -> None:
    found = [
        complete(loaded, "on", AnswerOptions(20, TokenSampling(1.0, 0.9, seed)))
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1]
    assert found[0].codes != found[2].codes


def test_prompt_and_answer_fill_a_row_and_no_more(loaded: Bundle) -> None:
    num_prompt = len(block_of(loaded.features).encode(TEXTS[0], ""))
    found = complete(loaded, TEXTS[0], AnswerOptions(LENGTH - num_prompt))
    assert len(found.codes) == LENGTH - num_prompt
    with pytest.raises(DataError, match=rf"{LENGTH + 1} together; the model takes {LENGTH}"):
        complete(loaded, TEXTS[0], AnswerOptions(LENGTH - num_prompt + 1))


def test_scores_that_are_not_finite_are_an_error(loaded: Bundle) -> None:
    block = block_of(loaded.features)
    scores = make_slots(loaded.model, 1).prefill(0, [block.end_code], 0)
    scores[3] = float("nan")
    with pytest.raises(NotFiniteError):
        GrowingAnswer(PromptTexts(block), [], AnswerOptions(1)).add(scores)
