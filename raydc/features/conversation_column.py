"""The fitted column of conversations, whose answers a language model learns. Pure.

Used in tasks of Ray Data, the driver and replicas. A conversation becomes one text by the chat
template of the model, as transformers applies it, in a sandbox. What the assistant says, with the
token that ends it, is learnt; the rest is only read.

Each stored number is a token code plus `num_codes` times its marks, so that a row needs no second
field: 1 where a conversation begins, 2 where a token is learnt.

Shape suffixes: B rows, M tokens of a row: one more than it predicts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features.chat_template import ChatTemplate, read_messages
from raydc.features.given_tokenizer import GivenTokenizer
from raydc.features.signature import Field
from raydc.features.table_layout import smallest_type
from raydc.features.text_column import is_missing
from raydc.features.token_text import CodeTexts, TokenizerTexts

Codes = npt.NDArray[Any]
Values = Sequence[Any] | npt.NDArray[Any]
# No text has as many tokens.
ALL_CODES = 2**62
BEGINS, LEARNT = 1, 2
NUM_MARKS = 4
# Characters that Unicode gives to nobody: they show what becomes of an answer in a template.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_ASSISTANT = "assistant"
# Of messages in the text of a template, which may leave out the thoughts of earlier answers.
_LEAST_KEPT = 0.1


@dataclass(frozen=True)
class Conversations:
    """Conversations as token codes with marks.

    Attributes:
        num_codes: Number of codes of tokens.
        length: Tokens that a row predicts.
        end_code: Code that fills rows up.
        tokenizer: Content of the model's `tokenizer.json`.
        template: Chat template, in the language of Jinja.
        special_tokens: Names and texts of tokens that the template may name, in turn.
    """

    num_codes: int
    length: int
    end_code: int
    tokenizer: str
    template: str
    special_tokens: tuple[str, ...] = ()
    normalisation: ClassVar[Any] = "none"
    kind: ClassVar[str] = "conversations"

    @property
    def field(self) -> Field:
        """The field of a row that it gives."""
        return Field(
            "array",
            self.dtype,
            (self.length + 1,),
            self.num_codes,
            end_code=self.end_code,
            has_marks=True,
        )

    @property
    def dtype(self) -> str:
        """numpy's name of the smallest type that holds all codes with marks."""
        return smallest_type(NUM_MARKS * self.num_codes)

    @property
    def filler(self) -> int:
        """What stands behind the last conversation of a row: each token sees itself alone."""
        return self.end_code + BEGINS * self.num_codes

    @cached_property
    def _encoder(self) -> GivenTokenizer:
        return GivenTokenizer(self.tokenizer, None, takes_special=True)

    @cached_property
    def _chat(self) -> ChatTemplate:
        return ChatTemplate(self.template, self.special_tokens)

    @cached_property
    def _ends(self) -> re.Pattern[str]:
        tokens = sorted(self._encoder.special, key=len, reverse=True)
        return re.compile(r"\s*(?:" + "|".join(map(re.escape, tokens)) + ")")

    def encode(self, cell: Any, place: str) -> Codes:
        """Codes and marks of a whole conversation.

        Args:
            cell: Messages, a list of objects with `role` and `content`, or its JSON text.
            place: Names it, for messages.

        Raises:
            DataError: It is not a conversation, or the template cannot tell what was answered.
        """
        messages = read_messages(cell, place)
        self._refuse_special(messages, place)
        text, spans = self._render(messages, place)
        try:
            codes, offsets = self._encoder.encode_with_offsets(text)
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error
        marks = np.zeros(len(codes), dtype=np.int64)
        starts, stops = (np.array([one[side] for one in offsets]) for side in (0, 1))
        for first, last in spans:
            inside = (stops > first) & (starts < last) & (stops > starts)
            if not inside.any() or _has_text(text, starts[inside], stops[inside], first, last):
                raise DataError(
                    f"{place}: one token holds a part of {shown(text[first:last])} and what is "
                    "beside it",
                    "The chat template does not belong to this tokenizer.",
                )
            # A token that also holds white space of the template is learnt for what it says.
            for token in np.flatnonzero(inside):
                begin, end = max(starts[token], first), min(stops[token], last)
                is_whole = starts[token] >= first and stops[token] <= last
                if is_whole or text[begin:end].strip():
                    marks[token] |= LEARNT
        marks[:1] |= BEGINS
        # Nothing stands before the first token, from which it could be predicted.
        marks[:1] &= ~LEARNT
        found = np.array(codes, dtype=np.int64) + self.num_codes * marks
        return found.astype(self.dtype)

    def encode_question(self, cell: Any, place: str, max_codes: int = ALL_CODES) -> list[int]:
        """Codes of messages and of the beginning of the answer to them, without marks.

        Args:
            cell: Messages, a list of objects with `role` and `content`, or its JSON text.
            place: Names it, for messages.
            max_codes: Most codes to return; by default all of them.

        Raises:
            DataError: They are no messages, a text holds a special token, they are far too long,
                or the template refuses them.
        """
        messages = read_messages(cell, place)
        try:
            size = sum(len(message["content"]) for message in messages)
            self._encoder.refuse_long(size, max_codes, _LEAST_KEPT)
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error
        self._refuse_special(messages, place)
        return self.encode_text(self._chat.render(messages, place, asks=True), place, max_codes)

    def encode_text(self, text: Any, place: str, max_codes: int = ALL_CODES) -> list[int]:
        """Codes of a text, in which what is written like a special token is one.

        Args:
            text: The text.
            place: Names it, for messages.
            max_codes: Most codes to return; by default all of them.

        Raises:
            DataError: It is not text, or the tokenizer has no token for a part of it.
        """
        if not isinstance(text, str):
            raise DataError(f"{place}: {shown(text)} is not text", "Give a string.")
        try:
            return self._encoder.encode(text.encode(), max_codes)
        # Half a surrogate pair cannot be encoded either.
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error

    def texts(self, before: Sequence[int]) -> CodeTexts:
        """Texts of codes that follow each other, such as those of an answer.

        Args:
            before: Codes of the text before them.
        """
        return TokenizerTexts(self._encoder.tokenizer, before)

    def code_of(self, token: str) -> int | None:
        """Code of a token by its text; None if there is none."""
        return self._encoder.codes.get(token)

    @cached_property
    def end_codes(self) -> tuple[int, ...]:
        """Codes with which an answer ends: `end_code`, and what the template puts behind a turn."""
        return tuple(sorted({self.end_code, *self._turn_ends}))

    @property
    def is_usable(self) -> bool:
        """Whether the template can tell the answer to a question, and what ends it."""
        return bool(self._turn_ends)

    @cached_property
    def _turn_ends(self) -> tuple[int, ...]:
        talk = [{"role": role, "content": "a"} for role in ("user", _ASSISTANT)]
        try:
            found = self.encode(talk, "a conversation").astype(np.int64)
        except DataError:
            # The template asks for more than these two messages, or is not one.
            return ()
        learnt = found[(found // self.num_codes) & LEARNT > 0] % self.num_codes
        return tuple(int(code) for code in learnt[-1:])

    def count_learnt(self, codes: Codes) -> int:
        """Number of tokens of a result of `encode` that are learnt."""
        return int(((codes // self.num_codes) & LEARNT > 0).sum())

    def fill(self, conversations: Sequence[Codes]) -> tuple[Codes, int]:
        """Makes one row of conversations that fit into it.

        Args:
            conversations: Results of `encode`, one behind the other in the row.

        Returns:
            Codes [M], and the number of its tokens that are learnt.
        """
        row_M = np.full(self.length + 1, self.filler, dtype=self.dtype)
        joined = np.concatenate(conversations)
        row_M[: len(joined)] = joined
        return row_M, self.count_learnt(row_M)

    def apply(self, values: Values, column: str, missing_values: Collection[str]) -> Codes:
        """Turns conversations into rows [B, M], each the beginning of one.

        Args:
            values: Messages of B rows; a missing one has no tokens.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Raises:
            DataError: A value is no conversation; the message names its row and column.
        """
        rows_BM = np.full((len(values), self.length + 1), self.filler, dtype=self.dtype)
        for row, value in enumerate(values):
            if not is_missing(value, missing_values):
                codes = self.encode(value, f"rows[{row}].{column}")[: self.length + 1]
                rows_BM[row, : len(codes)] = codes
        return rows_BM

    def _refuse_special(self, messages: Sequence[Mapping[str, Any]], place: str) -> None:
        for message in messages:
            # A template writes roles and other fields too.
            for content in (value for value in message.values() if isinstance(value, str)):
                if (token := self._encoder.find_special(content)) is not None:
                    raise DataError(
                        f"{place}: {shown(content)} holds {token!r}, a special token of the model",
                        "Remove it: a text must not end a turn or begin another one.",
                    )
                if _OPEN in content or _CLOSE in content:
                    found = f"{place}: {shown(content)} holds U+FDD0 or U+FDD1"
                    raise DataError(found, "Remove it.")

    def _render(
        self, messages: list[dict[str, Any]], place: str
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and where its answers and their ends are."""
        text = self._chat.render(messages, place)
        # Templates that strip answers are tried with marks inside the white space.
        for strips in (False, True):
            marked = [_mark(one, strips) if _is_answer(one) else one for one in messages]
            plain, spans = _take_marks(self._chat.render(marked, place))
            answers = [one["content"] for one in messages if _is_answer(one)]
            expected = [one.strip() for one in answers] if strips else answers
            # Compared with what was said, because a template may have changed it with its marks.
            if plain == text and [text[slice(*span)] for span in spans] == expected:
                return text, [self._with_end(text, *span, place) for span in spans]
        raise DataError(
            f"{place}: the chat template changes or leaves out an answer, so that what was "
            "answered cannot be told",
            "Remove the conversation, or give a template that writes each answer as it is: "
            "data.chat.template.",
        )

    def _with_end(self, text: str, first: int, last: int, place: str) -> tuple[int, int]:
        found = self._ends.match(text, last) if self._encoder.special else None
        if found is None:
            raise DataError(
                f"{place}: behind {shown(text[first:last])} the chat template has no special "
                "token, so that a model would never learn to stop",
                "Give another template: data.chat.template.",
            )
        return first, found.end()


def _is_answer(message: Mapping[str, Any]) -> bool:
    return message["role"] == _ASSISTANT and bool(message["content"].strip())


def _mark(message: dict[str, Any], strips: bool) -> dict[str, Any]:
    content = message["content"]
    core = content.strip() if strips else content
    before, _, behind = content.partition(core)
    return {**message, "content": f"{before}{_OPEN}{core}{_CLOSE}{behind}"}


def _has_text(text: str, starts: Codes, stops: Codes, first: int, last: int) -> bool:
    """Whether tokens of an answer hold more of their template than white space."""
    return bool(text[starts.min() : first].strip() or text[last : stops.max()].strip())


def _take_marks(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """A text without marks, and the places of what they enclosed."""
    parts, spans, length = [], [], 0
    for index, part in enumerate(re.split(f"[{_OPEN}{_CLOSE}]", marked)):
        # Every second part was between two marks.
        if index % 2:
            spans.append((length, length + len(part)))
        parts.append(part)
        length += len(part)
    return "".join(parts), spans
