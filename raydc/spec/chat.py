"""Section `data.chat`: rows of conversations, whose answers are learnt. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raydc.spec.base import Section

# Column of conversations, and of the answers beside a column of prompts.
MESSAGES, RESPONSE = "messages", "response"


class Chat(Section):
    """Conversations in the form of a model's chat template, for task: language_modelling."""

    prompt: str | None = Field(
        None,
        min_length=1,
        description="Column of prompts; the answers are in `data.target`, by default `response`. "
        "Default: `data.target`, by default `messages`, holds whole conversations, lists of "
        "objects with `role` and `content`.",
    )
    long: Literal["drop", "cut"] = Field(
        "drop",
        description="What becomes of a conversation with more tokens than a row: it is left out, "
        "or cut at its end. A line says how many there are.",
    )
    template: str | None = Field(
        None,
        min_length=1,
        description="Chat template, in the language of Jinja. Default: that of the folder.",
    )
    special_tokens: dict[str, str] | None = Field(
        None,
        description="Tokens that a template may name, such as `eos_token`. Default: those of the "
        "folder.",
    )
