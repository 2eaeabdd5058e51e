"""Texts of tokens that come one by one: no part of a character, and nothing lost."""

from __future__ import annotations

import random

import pytest
from language_models import TEXTS, block_of, language_features
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models

from raydc.errors import DataError
from raydc.features import TokenBlock
from raydc.features.token_block import of_tokenizer


def given_block() -> TokenBlock:
    """A column whose tokens come from a tokenizer of bytes."""
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    )
    return of_tokenizer(tokenizer.to_str(), None, 48, "none")


BLOCKS = [block_of(language_features()), given_block()]
BOTH = pytest.mark.parametrize("block", BLOCKS, ids=["learnt", "given"])


@BOTH
def test_texts_of_codes_are_the_text_that_gave_them(block: TokenBlock) -> None:
    for text in TEXTS:
        codes = block.encode(text, "text")
        for start in (0, len(codes) // 2):
            before, texts = codes[:start], block.texts(codes[:start])
            found = [texts.add(code) for code in codes[start:]]
            assert "".join(found) == text[len("".join(map(block.texts([]).add, before))) :] or (
                # The cut is inside of a character, which then is in neither part.
                "\ufffd" in "".join(found)
            )
            assert start or "".join(found) == text


@BOTH
def test_a_character_comes_whole_with_its_last_token(block: TokenBlock) -> None:
    # No pair of its bytes was learnt.
    codes = block.encode("\U0001f984!", "text")
    assert len(codes) == 5
    texts = block.texts([])
    assert [texts.add(code) for code in codes] == ["", "", "", "\U0001f984", "!"]


@BOTH
def test_random_codes_never_give_half_a_character(block: TokenBlock) -> None:
    choose = random.Random(0)
    for _ in range(200):
        texts = block.texts([])
        found = [texts.add(choose.randrange(block.num_codes - 1)) for _ in range(20)]
        # A part that is not valid alone would be half a surrogate pair or fail to encode.
        assert all(part.encode().decode() == part for part in found)


def test_a_word_of_a_tokenizer_that_marks_words_keeps_its_space() -> None:
    words = {"▁the": 0, "▁cat": 1, "▁sat": 2, "s": 3, "?": 4}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(words, unk_token="?"))
    tokenizer.decoder = decoders.Metaspace()
    block = of_tokenizer(tokenizer.to_str(), None, 8, "none")
    texts = block.texts([0])
    assert [texts.add(code) for code in (1, 3, 2)] == [" cat", "s", " sat"]
    first = block.texts([])
    assert [first.add(code) for code in (0, 1)] == ["the", " cat"]


def byte_fallback_block() -> TokenBlock:
    """A column of a tokenizer that writes unknown characters as tokens of bytes, like Llama 2."""
    words = {"?": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}, "x": 257, "a": 258}
    tokenizer = Tokenizer(
        tokenizer_models.BPE(words, [], unk_token="?", byte_fallback=True, fuse_unk=False)
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return of_tokenizer(tokenizer.to_str(), None, 48, "none")


def test_bytes_that_become_no_character_do_not_end_the_text() -> None:
    block = byte_fallback_block()
    codes = [1 + byte for byte in (0xC3, 0xA9, 0xC3)]
    texts = block.texts([])
    assert [texts.add(code) for code in codes[:2]] == ["", "é"]
    found = [texts.add(code) for code in (codes[2], 257, 258)]
    assert "".join(found).endswith("xa")
    choose = random.Random(0)
    for _ in range(300):
        texts = block.texts([choose.randrange(259) for _ in range(choose.randrange(9))])
        for _ in range(20):
            texts.add(choose.randrange(259))


@pytest.mark.parametrize("character", ["\u1780", "\u00e9", "\U0001f600"])
def test_a_word_keeps_its_space_behind_characters_of_bytes(character: str) -> None:
    words = {"?": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}, "\u2581a": 257}
    tokenizer = Tokenizer(
        tokenizer_models.BPE(words, [], unk_token="?", byte_fallback=True, fuse_unk=False)
    )
    # As in Llama 2: a space at the beginning of a text belongs to its first word.
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    block = of_tokenizer(tokenizer.to_str(), None, 48, "none")
    for count in range(1, 8):
        assert block.texts(block.encode(character * count, "")).add(257) == " a"


def test_codes_before_that_end_inside_of_a_character_are_not_repeated() -> None:
    block = byte_fallback_block()
    before = block.encode("日本日", "text")
    assert block.texts(before[-8:]).add(257) == "x"
    assert block.texts([*before, 1 + 0xC3]).add(257).endswith("x")
    assert block.texts(block.encode("a", "text")).add(257) == "x"


def test_text_that_is_far_too_long_is_refused_before_it_is_cut_into_tokens() -> None:
    block = given_block()
    with pytest.raises(DataError, match=r"text: it has 100,000 characters, too many for 8 tokens"):
        block.encode("a " * 50_000, "text", 9)
    assert len(block.encode("a " * 50_000, "text")) > 10_000
