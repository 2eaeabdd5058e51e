"""Texts as lists of token codes."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from required import absent

from raydc.data import tokenizer_file
from raydc.errors import DataError
from raydc.features import Text, text_column
from raydc.features.byte_pairs import words_of
from raydc.features.columns import column_from_dict, column_to_dict
from raydc.spec.feature_options import TextOptions


def _learnt(max_tokens: int = 100, normalisation: text_column.Normalisation = "none") -> Text:
    counts = Counter(words_of(b"a rose is a rose is a rose"))
    return text_column.learn(counts, 260, max_tokens, normalisation)


def test_texts_become_lists_and_a_missing_one_has_no_tokens() -> None:
    column = _learnt()
    lists = column.apply(["a rose", None, "?", "", math.nan, "is"], "body", frozenset({"?"}))
    assert lists.lengths.tolist()[1:5] == [0, 0, 0, 0]
    assert lists.lengths[0] > 0
    assert lists.lengths[5] > 0
    assert lists.values_N.dtype == np.dtype(column.field.dtype) == np.uint16
    assert lists.values_N.max() < column.num_codes == column.field.num_codes == 260


def test_a_row_has_the_codes_that_it_has_alone() -> None:
    texts = ["a rose", "", "is a rose is", "üä"]
    column = _learnt(max_tokens=3)
    together = column.apply(texts, "body", frozenset())
    for row, text in enumerate(texts):
        alone = column.apply([text], "body", frozenset())
        assert together[row : row + 1].values_N.tolist() == alone.values_N.tolist()
    assert together.lengths.max() == 3


def test_normalisation_joins_equal_texts() -> None:
    forms = ["e\u0301", "\u00e9"]
    for normalisation, are_equal in (("none", False), ("NFC", True)):
        lists = _learnt(normalisation=normalisation).apply(forms, "body", frozenset())
        first, second = lists[:1].values_N.tolist(), lists[1:].values_N.tolist()
        assert (first == second) is are_equal


@pytest.mark.parametrize("value", [3, 2.5, True, ["a"], {"a": 1}, b"bytes"])
def test_what_is_no_text_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(DataError, match=r"rows\[1\]\.body: .* is not text"):
        _learnt().apply(["a", value], "body", frozenset())


def test_half_a_character_is_refused_with_its_place() -> None:
    with pytest.raises(DataError, match=r"rows\[0\]\.body: not valid text: .* position 2"):
        _learnt().apply(["ab\ud800"], "body", frozenset())


def test_a_column_survives_its_file_and_a_pickle() -> None:
    column = _learnt()
    again = column_from_dict(json.loads(json.dumps(column_to_dict(column))))
    column.apply(["a rose"], "body", frozenset())
    for other in (again, pickle.loads(pickle.dumps(column))):  # noqa: S301
        assert other == column
        assert other.apply(["is a"], "b", frozenset()).values_N.tolist() == (
            column.apply(["is a"], "b", frozenset()).values_N.tolist()
        )


def _write_tokenizer(folder: Path, unknown: str | None = "[UNK]") -> Path:
    try:
        import tokenizers
    except ImportError:
        absent("no tokenizers, which is an extra")
    words = {"[UNK]": 0, "[CLS]": 1, "[PAD]": 2, "a": 3, "rose": 4}
    model = tokenizers.models.WordLevel(words, **({"unk_token": unknown} if unknown else {}))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    tokenizer.enable_padding(pad_id=2, length=50)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_file_gives_its_own_codes_without_padding(tmp_path: Path) -> None:
    path = _write_tokenizer(tmp_path)
    column = tokenizer_file.check_tokenizer(TextOptions(tokenizer=str(path), max_tokens=3))
    lists = column.apply(["a rose", "a rose is a rose"], "body", frozenset())
    assert lists.values_N.tolist() == [1, 3, 4, 1, 3, 4]
    assert column.num_codes == 5


def test_a_text_that_a_tokenizer_cannot_read_is_refused_with_its_place(tmp_path: Path) -> None:
    path = _write_tokenizer(tmp_path, unknown=None)
    column = tokenizer_file.check_tokenizer(TextOptions(tokenizer=str(path)))
    with pytest.raises(DataError, match=r"rows\[1\]\.body: the tokenizer fails on this text"):
        column.apply(["a", "thorn"], "body", frozenset())


def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    options = TextOptions(tokenizer=str(path))
    with pytest.raises(DataError, match=r"data\.features\.text\.tokenizer: .*tokenizer\.json: No "):
        tokenizer_file.check_tokenizer(options)
    path.write_text("{}")
    with pytest.raises(DataError, match="tokenizer") as caught:
        tokenizer_file.check_tokenizer(options)
    assert "not a tokenizer file" in str(caught.value) or "pip install" in str(caught.value.hint)
