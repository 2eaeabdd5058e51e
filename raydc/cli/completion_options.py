"""Options of `raydc predict --input` for language models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from raydc.errors import UsageError


class _NumberRange(click.FloatRange):
    """A number of a range; `click.FloatRange` takes NaN, which is in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Reads an option. See `click.ParamType.convert`."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


_OPTIONS = (
    click.option(
        "--prompts",
        metavar="COLUMN",
        help="Of a language model: column of the prompts in --input. Default: that of the texts, "
        "messages or prompts of the training.",
    ),
    click.option(
        "--chat/--no-chat",
        "is_talk",
        default=None,
        help="Whether prompts are what a user says, for the chat template, or are continued. "
        "Default: as in training.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        help="Most tokens of a completion. Default: as many as fit, at most "
        "serve.generation.max_tokens.",
    ),
    click.option(
        "--temperature",
        type=_NumberRange(0.0, 2.0),
        help="How much chance decides. Default: 0, always the likeliest token.",
    ),
    click.option(
        "--top-p",
        type=_NumberRange(0.0, 1.0, min_open=True),
        help="Only the likeliest tokens that together have this chance. Default: 1, all.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**64 - 1),
        help="Seed of the first row of a file; the next one has the next number. Default: 0.",
    ),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="Text that ends a completion. May be repeated.",
    ),
)


def completion_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as further named arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of `evaluate.CompletionOptions` that a user has given.

    Args:
        values: Arguments of the command, from `completion_options`.
    """
    return {name: value for name, value in values.items() if value not in (None, ())}


def refuse_options(values: dict[str, Any]) -> None:
    """Refuses options of completions without a file of prompts.

    Args:
        values: Arguments of the command, from `completion_options`.

    Raises:
        UsageError: One was given.
    """
    if given := given_options(values):
        name = next(iter(given)).replace("is_talk", "chat").replace("_", "-")
        raise UsageError(
            f"--{name} is for --input",
            "An endpoint gets them with each request: raydc.client.complete(URL, MODEL, PROMPT).",
        )
