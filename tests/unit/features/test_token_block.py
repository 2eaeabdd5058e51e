"""The column of documents: tokens, ends, and rows of a fixed length."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from encoder_folders import require_library, tokenizer_json

from raydc.errors import DataError
from raydc.features import TokenBlock, token_block
from raydc.features.byte_pairs import words_of
from raydc.features.columns import column_from_dict, column_to_dict

TEXT = "the cat sees the cat and the dog sees the dog"


def learn(vocabulary: int = 262, length: int = 8, **fields: Any) -> TokenBlock:
    counts = Counter(words_of(TEXT.encode()))
    return token_block.learn(counts, vocabulary, length, fields.get("normalisation", "none"))


def test_the_end_is_the_code_behind_all_others() -> None:
    column = learn()
    assert (column.num_codes, column.end_code) == (262, 261)
    codes = column.encode("the cat and a bird", "here")
    assert max(codes) < column.end_code
    assert len(codes) < len("the cat and a bird")
    assert column_from_dict(column_to_dict(column)) == column


@pytest.mark.parametrize("num_tokens", [1, 7, 8, 9, 16, 17])
def test_each_token_is_predicted_once(num_tokens: int) -> None:
    column = TokenBlock(300, 8, 299)
    stream = np.array([299, *range(num_tokens)])
    rows, counts = column.rows(stream)
    assert rows.dtype == np.uint16
    assert counts.sum() == num_tokens
    predicted = [row[1 : count + 1].tolist() for row, count in zip(rows, counts, strict=True)]
    assert list(itertools.chain(*predicted)) == list(range(num_tokens))
    assert rows[0, 0] == 299
    # Each is predicted from the one before it.
    assert all(row[0] == before[-1] for before, row in itertools.pairwise(rows))


def test_a_raw_text_is_the_beginning_of_one_row() -> None:
    column = learn()
    rows = column.apply(["the", None, "zzzzzzzzzzzz"], "text", ())
    end = column.end_code
    assert rows.shape == (3, 9)
    assert rows[0, 0] == rows[0, -1] == end
    assert (rows[1] == end).all()
    assert rows[2].tolist() == [end, *[ord("z")] * 8]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"rows\[0\].text: 5 is not text"):
        learn().apply([5], "text", ())
    with pytest.raises(DataError, match="surrogate"):
        learn().encode("a\ud800", "rows[0].text")


def test_normalisation_comes_first() -> None:
    plain, joined = learn(), learn(normalisation="NFC")
    assert plain.encode("e\u0301", "") != joined.encode("e\u0301", "") == joined.encode("é", "")


def test_a_given_tokenizer_adds_nothing_and_its_end_is_a_new_code() -> None:
    require_library()
    column = token_block.of_tokenizer(tokenizer_json(), None, 8, "none")
    assert (column.num_codes, column.end_code) == (15, 14)
    # Neither [CLS] nor [SEP], nor padding.
    assert column.encode("free prize now", "") == [4, 5, 7]
    assert column_from_dict(column_to_dict(column)).encode("ok", "") == [12]  # type: ignore[union-attr]


def test_the_end_of_a_given_tokenizer() -> None:
    require_library()
    column = token_block.of_tokenizer(tokenizer_json(), "[SEP]", 8, "none")
    assert (column.num_codes, column.end_code) == (14, 3)
    # What is written like a token of its own is text.
    assert column.end_code not in column.encode("free [SEP] now", "")
    with pytest.raises(DataError, match=r"there is no token '\[SEPP\]'"):
        token_block.of_tokenizer(tokenizer_json(), "[SEPP]", 8, "none")
    word = token_block.of_tokenizer(tokenizer_json(), "now", 8, "none")
    with pytest.raises(DataError, match="holds the token that ends documents"):
        word.encode("free now", "rows[0].text")
