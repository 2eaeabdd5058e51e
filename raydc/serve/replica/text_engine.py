"""What an endpoint needs of an engine that continues texts. Used in the replica."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from raydc.bundle.growing_answer import AnswerOptions
from raydc.features import PromptTexts
from raydc.serve.replica.answer_stream import AnswerStream


class TextEngine(Protocol):
    """Answers of one loaded language model, whatever computes them."""

    prompts: PromptTexts
    """Its prompts and answers."""

    @property
    def loop(self) -> Any:
        """What computes: one object for all versions that share a base."""

    @property
    def pass_sizes(self) -> deque[int]:
        """Answers that grew in each of the last passes."""

    @property
    def num_slots(self) -> int:
        """Answers that grow at a time."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of a prompt and its answer together."""

    @property
    def answer(self) -> str:
        """Whether an answer depends on others, in words."""

    @property
    def fault(self) -> str | None:
        """Why it cannot answer any more; None while it can."""

    def submit(
        self, prompt: Sequence[int], options: AnswerOptions, is_talk: bool = False
    ) -> AnswerStream:
        """Asks for an answer; called in an event loop.

        Args:
            prompt: Codes of the prompt, which fit together with `options.max_tokens`.
            options: What is asked for.
            is_talk: Whether the prompt is made of messages.
        """
