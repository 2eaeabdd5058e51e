"""The choice of the next token from its scores. Pure.

Shape suffixes: V codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are chosen.

    The same seed gives the same tokens, whatever else is computed and wherever: the random number
    of a token is a function of the seed and of its position in the answer.

    Attributes:
        temperature: Scores are divided by it; 0 takes the token of the greatest score.
        top_p: Only the likeliest tokens are drawn from, whose probabilities together reach this
            (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751).
        seed: Seed of the random numbers, 0 to 2^64 - 1.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def choose(self, scores_V: npt.NDArray[np.float32], position: int) -> int:
        """Chooses a token.

        Args:
            scores_V: Finite scores of all codes.
            position: Tokens of the answer before this one.

        Returns:
            Its code; of equal ones the smallest.
        """
        if self.temperature == 0:
            return int(scores_V.argmax())
        # Less the greatest first: a small temperature makes the others vanish, and nothing grows.
        with np.errstate(over="ignore"):
            chances_V = np.exp((scores_V.astype(np.float64) - scores_V.max()) / self.temperature)
        # A generator that counts: number `position` of the sequence of a seed, without the others.
        draw = np.random.Generator(np.random.Philox(key=self.seed, counter=position)).random()
        if self.top_p >= 1:
            return _find(chances_V, draw)
        # Sorting the numbers alone takes a third of the time of sorting codes by them.
        sorted_V = np.sort(chances_V)[::-1]
        reached_V = np.cumsum(sorted_V)
        count = int(np.searchsorted(reached_V, self.top_p * reached_V[-1])) + 1
        place = _find(sorted_V[:count], draw)
        chance = sorted_V[place]
        # Equal scores keep the order of their codes.
        num_above = np.count_nonzero(chances_V > chance)
        return int(np.flatnonzero(chances_V == chance)[place - num_above])


def _find(chances: npt.NDArray[np.float64], draw: float) -> int:
    """Position whose share of the sum holds a number from 0 to 1."""
    reached = np.cumsum(chances)
    position = int(np.searchsorted(reached, draw * reached[-1], side="right"))
    # Rounding may put the product on the sum itself.
    return min(position, len(chances) - 1)
