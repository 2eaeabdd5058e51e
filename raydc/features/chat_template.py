"""The chat template of a model: messages become one text. Pure; used wherever columns are.

transformers applies it, in a sandbox.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from raydc.errors import DataError, shown

# Templates know it by this name. Texts depend on no date: under another name it is not defined, and
# those that ask whether it is take a date of their own.
_CLOCK = "strftime_now"
_HINT = 'Give a list such as [{"role": "user", "content": "..."}, {"role": "assistant", ...}].'


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template.

    Attributes:
        template: Its text, in the language of Jinja.
        special_tokens: Names and texts of tokens that it may name, in turn.
    """

    template: str
    special_tokens: tuple[str, ...] = ()

    def render(self, messages: list[dict[str, Any]], place: str, asks: bool = False) -> str:
        """The text of messages.

        Args:
            messages: What `read_messages` returned.
            place: Names them, for messages of errors.
            asks: Whether the beginning of an answer stands behind them.

        Raises:
            DataError: The template refuses them.
        """
        # Imported late: it takes a second, and is not needed for plain texts.
        from transformers.utils.chat_template_utils import render_jinja_template

        names, texts = self.special_tokens[::2], self.special_tokens[1::2]
        try:
            rendered, _ = render_jinja_template(
                [messages],
                chat_template=self.template.replace(_CLOCK, f"no_{_CLOCK}"),
                add_generation_prompt=asks,
                **dict(zip(names, texts, strict=True)),
            )
        # A template may raise errors of its own, such as for two answers in turn.
        except Exception as error:
            raise DataError(f"{place}: the chat template refuses it: {error}") from error
        return str(rendered[0])


def read_messages(cell: Any, place: str) -> list[dict[str, Any]]:
    """Messages of a cell, without fields that are null.

    Args:
        cell: A list of objects with `role` and `content`, or its JSON text.
        place: Names it, for messages.

    Raises:
        DataError: It is anything else.
    """
    try:
        given = json.loads(cell) if isinstance(cell, str) else cell
    except ValueError as error:
        message = f"{place}: {shown(cell)} is not a list of messages"
        raise DataError(message, _HINT) from error
    if not isinstance(given, list) or not given:
        raise DataError(f"{place}: {shown(given)} is not a list of messages", _HINT)
    messages: list[dict[str, Any]] = []
    for number, one in enumerate(given):
        if not isinstance(one, dict):
            raise DataError(f"{place}[{number}]: {shown(one)} is not a message", _HINT)
        # Parquet has a null for each field that another message has.
        fields = {name: value for name, value in one.items() if value is not None}
        for name in ("role", "content"):
            if not isinstance(fields.get(name), str):
                found = shown(one.get(name))
                raise DataError(f"{place}[{number}].{name}: {found} is not text", _HINT)
        messages.append(fields)
    return messages
