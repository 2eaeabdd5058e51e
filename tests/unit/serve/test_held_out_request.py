"""The example request of a run: the first words of a held-out text."""

from __future__ import annotations

from language_models import LENGTH, TEXTS, block_of, language_features

from raydc.serve.control.held_out_request import begin_text


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
