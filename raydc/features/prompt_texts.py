"""How prompts of a language model become codes, and codes of answers texts. Pure.

Used in the driver and replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydc.errors import DataError
from raydc.features.conversation_column import ALL_CODES, Conversations
from raydc.features.token_block import TokenBlock
from raydc.features.token_text import CodeTexts

TokenColumn = TokenBlock | Conversations


@dataclass(frozen=True)
class PromptTexts:
    """The prompts and answers of a language model.

    Attributes:
        column: The column of its training.
        talk: Makes a prompt of messages; None of a model without a chat template.
        further_ends: Codes that end an answer, beside those of the columns.
    """

    column: TokenColumn
    talk: Conversations | None = None
    further_ends: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of a row of the training."""
        return self.column.length

    def put_beginning(self, codes: Sequence[int], is_talk: bool = False) -> list[int]:
        """Codes that the model reads: a document begins with one, messages with their own.

        Args:
            codes: Codes of a prompt.
            is_talk: Whether they are those of messages.
        """
        if is_talk or not isinstance(self.column, TokenBlock):
            return list(codes)
        return [self.column.end_code, *codes]

    @cached_property
    def end_codes(self) -> frozenset[int]:
        """Codes that end an answer."""
        talk = () if self.talk is None else self.talk.end_codes
        return frozenset((*self.column.end_codes, *talk, *self.further_ends))

    def encode(self, text: Any, place: str, max_codes: int = ALL_CODES) -> list[int]:
        """Codes of a text that is continued, without those before it.

        Args:
            text: The text: the beginning of a document, or of a conversation in its template.
            place: Names it, for messages.
            max_codes: Most codes to return; by default all of them.

        Raises:
            DataError: It is not text, it has no tokens where some are needed, or the tokenizer has
                no token for a part of it.
        """
        if isinstance(self.column, TokenBlock):
            return self.column.encode(text, place, max_codes)
        return _require_some(self.column.encode_text(text, place, max_codes), place)

    def encode_messages(self, messages: Any, place: str, max_codes: int = ALL_CODES) -> list[int]:
        """Codes of messages, and of the beginning of the answer to them.

        Args:
            messages: A list of objects with `role` and `content`.
            place: Names it, for messages of errors.
            max_codes: Most codes to return; by default all of them.

        Raises:
            DataError: The model has no chat template, or it refuses the messages.
        """
        if self.talk is None:
            raise DataError("the model has no chat template", "It continues texts.")
        return _require_some(self.talk.encode_question(messages, place, max_codes), place)

    def texts(self, before: Sequence[int]) -> CodeTexts:
        """Texts of codes that follow each other, such as those of an answer.

        Args:
            before: Codes of the text before them.
        """
        return self.column.texts(before)


def _require_some(codes: list[int], place: str) -> list[int]:
    """Raises DataError for no codes: nothing says what may follow them."""
    if not codes:
        raise DataError(f"{place}: it has no tokens", "Give a text.")
    return codes
