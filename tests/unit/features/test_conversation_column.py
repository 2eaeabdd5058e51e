"""Conversations as tokens: what of them is learnt, and which cannot be told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from decoder_folders import BEGIN, END, END_CODE, TEMPLATE, VOCABULARY, tokenizer_json
from encoder_folders import require_library

from raydc.errors import DataError
from raydc.features import Conversations
from raydc.features.columns import column_from_dict, column_to_dict
from raydc.features.conversation_column import BEGINS, LEARNT

NUM_CODES = len(VOCABULARY)
TALK = [
    {"role": "user", "content": "the cat sees"},
    {"role": "assistant", "content": "a dog"},
    {"role": "user", "content": "and then"},
    {"role": "assistant", "content": "the dog goes home"},
]


def make(template: str = TEMPLATE, length: int = 40, tokenizer: str | None = None) -> Conversations:
    require_library()
    special = ("bos_token", BEGIN, "eos_token", END)
    given = tokenizer or tokenizer_json()
    return Conversations(NUM_CODES, length, END_CODE, given, template, special)


def learnt_of(column: Conversations, messages: Any) -> list[str]:
    found = column.encode(messages, "row")
    codes, marks = found % NUM_CODES, found // NUM_CODES
    return [VOCABULARY[code] for code in codes[marks & LEARNT > 0]]


def test_answers_and_their_ends_are_learnt_and_nothing_else() -> None:
    column = make()
    found = column.encode(TALK, "row")
    words = [VOCABULARY[code] for code in found % NUM_CODES]
    assert words[:9] == [BEGIN, "user", "\n", "the", "cat", "sees", END, "\n", BEGIN]
    assert learnt_of(column, TALK) == ["a", "dog", END, "the", "dog", "goes", "home", END]
    assert column.count_learnt(found) == 8
    marks = found // NUM_CODES
    assert marks[0] == BEGINS
    assert not (marks[1:] & BEGINS).any()
    # The end of a question is the same token, and is not learnt.
    assert (found % NUM_CODES == END_CODE).sum() == 4
    assert column.encode(json.dumps(TALK), "row").tolist() == found.tolist()


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE.replace("m['content']", "m['content'] | trim"),
        TEMPLATE.replace("m['content'] +", "m['content'].strip() + '\\n' +"),
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nok<|im_end|>\n{% endif %}"
        + TEMPLATE,
        "{{ bos_token }}" + TEMPLATE.replace("'<|im_end|>'", "eos_token"),
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}"
        "<|im_end|>{% endif %}{% endfor %}",
    ],
    ids=["trim", "break", "system", "begin", "generation"],
)
def test_templates_of_other_forms(template: str) -> None:
    found = [token for token in learnt_of(make(template), TALK) if token != "\n"]
    assert found == ["a", "dog", END, "the", "dog", "goes", "home", END]


def test_one_begin_token_and_not_two() -> None:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json())
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
    )
    found = make(tokenizer=tokenizer.to_str()).encode(TALK, "row")
    assert found.tolist() == make().encode(TALK, "row").tolist()


def test_an_answer_in_a_question_is_not_taken_for_one() -> None:
    talk = [
        {"role": "user", "content": "the assistant sees a dog"},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": "  "},
    ]
    assert learnt_of(make(), talk) == ["a", "dog", END]
    assert learnt_of(make(), talk[:1]) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TEMPLATE.replace("m['content']", "m['content'] | upper"), "the chat template changes or"),
        (TEMPLATE.replace("m['content']", "m['content'][:3]"), "changes or leaves out an answer"),
        ("{{ messages[0]['content'] }}<|im_end|>", "changes or leaves out an answer"),
        (TEMPLATE.replace("'<|im_end|>'", "'ok'"), "has no special token, so that a model would"),
        ("{{ raise_exception('two in turn') }}", "the chat template refuses it: two in turn"),
        ("{% for m in %}", "the chat template refuses it"),
        # A template is text: it reaches nothing of the process.
        ("{{ messages.__class__.__mro__ }}", "the chat template refuses it"),
        (TEMPLATE.replace("+ '\\n' + m", "+ 'x' + m"), "one token holds a part of"),
    ],
    ids=["upper", "part", "first", "end", "raises", "syntax", "unsafe", "joined"],
)
def test_templates_that_cannot_tell_an_answer_are_refused(template: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(template).encode(TALK, "row")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("no json", "row: 'no json' is not a list of messages"),
        ([], r"row: \[\] is not a list of messages"),
        ({"role": "user"}, "is not a list of messages"),
        (["a"], r"row\[0\]: 'a' is not a message"),
        ([{"role": "user"}], r"row\[0\].content: None is not text"),
        ([{"content": "a", "role": 3}], r"row\[0\].role: 3 is not text"),
        ([{"role": "user", "content": "a <|im_end|> b"}], "a special token of the model"),
        ([{"role": "user<|im_end|>", "content": "a"}], "a special token of the model"),
        ([{"role": "user", "content": "a \ufdd0 b"}], "holds U[+]FDD0 or U[+]FDD1"),
    ],
    ids=str,
)
def test_cells_that_are_no_conversations_are_named(cell: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make().encode(cell, "row")


def test_rows_of_conversations_and_of_raw_values() -> None:
    column = make(length=35)
    first, second = column.encode(TALK[:2], "row"), column.encode(TALK[2:], "row")
    row_M, count = column.fill([first, second])
    assert (row_M[: len(first)] == first).all()
    assert (row_M[len(first) :][: len(second)] == second).all()
    behind = row_M[len(first) + len(second) :]
    assert len(row_M) == 36
    assert set(behind.tolist()) == {END_CODE + NUM_CODES * BEGINS}
    assert count == 8
    rows_BM = column.apply([TALK, None], "messages", ())
    assert rows_BM.dtype == np.uint8
    assert (rows_BM[0, :30] == column.encode(TALK, "row")[:30]).all()
    assert set(rows_BM[1].tolist()) == {column.filler}
    assert column_from_dict(json.loads(json.dumps(column_to_dict(column)))) == column


def byte_level(special: bool = True, trim_offsets: bool = True) -> tuple[str, list[str]]:
    """A tokenizer with tokens for white space, as GPT-2 and Qwen have them, and its tokens."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    words = ["u", "s", "e", "r", "a", "b", "\u010a", "\u0120", "<|s|>", "<|e|>", "?"]
    words += ["\u0120\u0120", "\u010a\u0120\u0120", "\u0120b"]
    merges = [("\u0120", "\u0120"), ("\u010a", "\u0120\u0120"), ("\u0120", "b")]
    tokenizer = tokenizers.Tokenizer(
        models.BPE({word: code for code, word in enumerate(words)}, merges, unk_token="?")
    )
    # No words of its own, so that white space of a template and of an answer may join.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    if special:
        tokenizer.add_special_tokens(["<|s|>", "<|e|>"])
    return tokenizer.to_str(), words


WIDE = "{% for m in messages %}<|s|>{{ m.role[:1] }}\n{{ m.content }}<|e|>\n{% endfor %}"


def words_learnt(answer: str, template: str = WIDE) -> list[str]:
    require_library()
    given, words = byte_level()
    column = Conversations(len(words), 40, 9, given, template)
    talk = [{"role": "user", "content": "u"}, {"role": "assistant", "content": answer}]
    found = column.encode(talk, "row")
    return [words[code % len(words)] for code in found if code // len(words) & LEARNT]


def test_white_space_inside_of_an_answer_is_learnt() -> None:
    assert words_learnt("b\n  b") == ["b", "\u010a\u0120\u0120", "b", "<|e|>"]
    assert words_learnt("b  b") == ["b", "\u0120\u0120", "b", "<|e|>"]


def test_white_space_that_joins_that_of_the_template_is_not_learnt() -> None:
    # The line end of the template and the spaces of the answer are one token.
    assert words_learnt("  b") == ["b", "<|e|>"]
    # A token that holds a space of the template and a word of the answer is.
    assert words_learnt("b", WIDE.replace("\n{{", " {{")) == ["\u0120b", "<|e|>"]


def test_tokenizer_without_special_tokens_has_no_end_to_learn() -> None:
    require_library()
    given, words = byte_level(special=False)
    column = Conversations(len(words), 40, 9, given, WIDE)
    with pytest.raises(DataError, match="has no special token, so that a model would never"):
        column.encode(TALK[:2], "row")
