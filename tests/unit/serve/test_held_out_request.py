"""The example request of a run: the first words of a held-out text."""

from __future__ import annotations

from decoder_folders import END_CODE, TEMPLATE, VOCABULARY, tokenizer_json
from language_models import LENGTH, TEXTS, block_of, language_features

from raydc.features import Conversations
from raydc.serve.control.held_out_request import begin_talk, begin_text


def test_the_first_words_leave_room_for_an_answer() -> None:
    block = block_of(language_features())
    for text in TEXTS:
        words, num_left = begin_text(text, block)
        assert text.startswith(words)
        assert 1 <= len(words.split()) <= 6
        assert words[-1] != " "
        assert num_left == LENGTH - len(block.encode(words, ""))
        assert num_left >= LENGTH // 2


def test_a_first_word_that_is_too_long_is_not_sent() -> None:
    block = block_of(language_features())
    assert begin_text("#" * LENGTH + " end", block) == ("", LENGTH)
    assert begin_text("", block) == ("", LENGTH)


def test_a_conversation_is_sent_without_its_last_answer_that_leaves_room() -> None:
    column = Conversations(len(VOCABULARY), 24, END_CODE, tokenizer_json(), TEMPLATE)
    talk = [
        {"role": role, "content": content}
        for role, content in (("user", "the cat"), ("assistant", "ok"), ("user", "a dog"))
    ]
    answer = {"role": "assistant", "content": "then home"}
    assert begin_talk([*talk, answer], column) == (talk, 1)
    # A longer question leaves no room, and one before it is sent.
    long = {"role": "user", "content": "a " * 20}
    assert begin_talk([*talk[:2], long, answer], column) == (talk[:1], 24 - 10)
    assert begin_talk([long, answer], column) == ([], 0)
