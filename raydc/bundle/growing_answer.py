"""An answer of a language model as it grows, token by token. Used in replicas and the driver.

Shape suffixes: V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from raydc.bundle.stop_strings import StopFilter
from raydc.features import PromptTexts
from raydc.models.token_sampling import TokenSampling

FinishReason = Literal["stop", "length"]


class NotFiniteError(ArithmeticError):
    """The model gave scores that are no finite numbers."""


@dataclass(frozen=True)
class AnswerOptions:
    """What is asked for behind a prompt.

    Attributes:
        max_tokens: Most tokens of the answer.
        sampling: How tokens are chosen.
        stop: Strings that end the answer; they are not part of it.
    """

    max_tokens: int
    sampling: TokenSampling = field(default_factory=TokenSampling)
    stop: tuple[str, ...] = ()


class GrowingAnswer:
    """The tokens and the text that follow a prompt.

    Args:
        prompts: Knows the texts of codes, and which of them end an answer.
        prompt: Codes of the prompt.
        options: What is asked for.

    Attributes:
        codes: Codes of the answer so far; the last one may be that of the end.
        finish_reason: `stop` after the end or a stop string, `length` at the most tokens; None
            while it grows.
    """

    def __init__(self, prompts: PromptTexts, prompt: Sequence[int], options: AnswerOptions) -> None:
        self.codes: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._end_codes = prompts.end_codes
        self._options = options
        self._texts = prompts.texts(prompt)
        self._filter = StopFilter(options.stop)

    def add(self, scores_V: npt.NDArray[np.float32]) -> str:
        """Chooses the next token.

        Args:
            scores_V: Scores of all codes.

        Returns:
            The text that can be passed on now.

        Raises:
            NotFiniteError: The scores are no finite numbers.
        """
        require_finite(scores_V)
        return self.add_code(self._options.sampling.choose(scores_V, len(self.codes)))

    def add_code(self, code: int) -> str:
        """Adds a token that an engine of its own has chosen; returns the text to pass on now."""
        self.codes.append(code)
        if code in self._end_codes:
            self.finish_reason = "stop"
            return self._filter.finish()
        text = self._filter.add(self._texts.add(code))
        if self._filter.is_stopped:
            self.finish_reason = "stop"
        elif len(self.codes) == self._options.max_tokens:
            self.finish_reason = "length"
            text += self._filter.finish()
        return text


def require_finite(scores_V: npt.NDArray[np.float32]) -> None:
    """Raises NotFiniteError for scores that are no finite numbers."""
    if not np.isfinite(scores_V).all():
        raise NotFiniteError("the model gave scores that are not finite")
