"""What a check of golden prompts found in an engine whose scores are rounded. In the replica."""

from __future__ import annotations

from dataclasses import dataclass

# Of a version that is refused; with the numbers of the engine.
HALF_HINT = (
    "%s rounds scores of this version further than it may; set serve.generation.precision: fp32. "
    "If that is refused as well, the weights or the model's code are not those that were trained."
)


@dataclass(frozen=True)
class GoldenCount:
    """What a check of golden prompts found, within its tolerance.

    Attributes:
        num_tokens: Stored tokens.
        num_others: Those for which another token comes first.
        margin: How far the greatest score is above that of a stored token, at most.
    """

    num_tokens: int = 0
    num_others: int = 0
    margin: float = 0.0

    def describe(self, precision: str) -> str:
        """What it says, for whoever reads the facts of a model; empty without golden prompts."""
        if not self.num_tokens:
            return ""
        if not self.num_others:
            return f"all {self.num_tokens} tokens of its golden prompts come first in {precision}"
        return (
            f"for {self.num_others} of {self.num_tokens} tokens of its golden prompts another one "
            f"comes first in {precision}, by at most {self.margin:.3g} in its score"
        )
