"""One request with a held-out row, as a client would send it, after an endpoint is up. Driver."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raydc.data import shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.errors import DataError
from raydc.features import Conversations, Features, TokenBlock
from raydc.features.chat_template import read_messages
from raydc.registry import user
from raydc.serve.control.readiness import complete_text, predict_row
from raydc.spec import ResolvedSpec
from raydc.spec.sections import Serve
from raydc.storage import Storage
from raydc.tokens import TokenStore

# Of the example of a run: words that are sent, and tokens that are asked for.
_NUM_WORDS = 6
_NUM_ANSWER_TOKENS = 24
_WORD = re.compile(r"\S+")


def ask_held_out(
    spec: ResolvedSpec, storage: Storage, data: Prepared, url: str
) -> tuple[dict[str, Any] | None, Any]:
    """Sends the first held-out row that an endpoint takes; of a language model, the beginning of
    a held-out text.

    Args:
        spec: Its section `serve` says whether the request needs a token.
        storage: Holds the tokens of the model.
        data: Data set whose held-out row is sent.
        url: Address of the endpoint that should answer.

    Returns:
        The answer, and the label, labels or value that the data set has for the row, or the text
        that was sent. None for both if each of the rows lacks a value that the endpoint needs.
    """
    # Golden rows are the first held-out rows, or the first validation rows if none are held out.
    rows = read_golden_rows(data.folder)
    column = data.features.token_column
    if column is not None:
        first = rows[0][data.features.target]
        prompt, num_left = (
            begin_text(str(first), column)
            if isinstance(column, TokenBlock)
            else begin_talk(first, column)
        )
        if prompt == []:
            return None, None
        limit = (spec.serve or Serve()).generation.max_tokens
        max_tokens = min(_NUM_ANSWER_TOKENS, num_left, limit)
        with _own_token(spec, storage) as token:
            return complete_text(url, spec.name, prompt, max_tokens, token), prompt
    index = find_taken(rows, data.features)
    if index is None:
        return None, None
    split = "test" if data.num_rows.get("test") else "validation"
    _, y = shards.open_rows(data.folder, split).gather(np.array([index]))
    expected = data.features.name_target(y[0])
    with _own_token(spec, storage) as token:
        return predict_row(url, rows[index], token), expected


def _own_token(
    spec: ResolvedSpec, storage: Storage
) -> contextlib.AbstractContextManager[str | None]:
    """A token that is revoked after the request; None for an open endpoint."""
    is_open = spec.serve is None or spec.serve.auth == "none"
    return contextlib.nullcontext() if is_open else TokenStore(storage, spec.name).temporary(user())


def begin_text(text: str, block: TokenBlock) -> tuple[str, int]:
    """Cuts the first words of a text.

    Args:
        text: A document.
        block: Column of documents, which counts tokens.

    Returns:
        The words, none if the first is too long already; and how many tokens may follow them.
    """
    for match in reversed(list(itertools.islice(_WORD.finditer(text), _NUM_WORDS))):
        beginning = text[: match.end()]
        num_tokens = len(block.encode(beginning, "held-out text"))
        if num_tokens <= block.length // 2:
            return beginning, block.length - num_tokens
    return "", block.length


def begin_talk(talk: Any, column: Conversations) -> tuple[list[dict[str, Any]], int]:
    """Cuts a conversation before its last answer that leaves room for another one.

    Args:
        talk: A conversation.
        column: Column of conversations, which counts tokens.

    Returns:
        Its messages, none if there is no such answer; and how many tokens may follow them.
    """
    messages = read_messages(talk, "held-out conversation")
    for number in reversed(range(1, len(messages))):
        if messages[number]["role"] != "assistant":
            continue
        num_tokens = len(column.encode_question(messages[:number], "held-out conversation"))
        if num_tokens < column.length:
            return messages[:number], column.length - num_tokens
    return [], 0


def find_taken(rows: Sequence[Mapping[str, Any]], features: Features) -> int | None:
    """Finds the first row with all values that an endpoint needs; None if there is none.

    A held-out row may lack a value that all training rows have.
    """
    for index, row in enumerate(rows):
        try:
            features.apply_given(features.from_json_rows([row]))
        except DataError:
            continue
        return index
    return None
