"""What decides which trials of a sweep go on: a rule, its rungs and the number of trials. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from raydc.errors import UsageError

PROMOTION, STOPPING = "promotion", "stopping"


@dataclass(frozen=True)
class Method:
    """How a sweep chooses the trials that go on.

    A rung is a number of epochs after which trials are compared. Both rules are successive halving
    without barriers, as in ASHA (Li et al., 2020, arXiv:1810.05934), with one difference: the
    entries of a rung have a canonical order, and a decision sees those before it in that order,
    where ASHA sees those that happen to be there.

    - `promotion`: of the first m entries of a rung, the best m // factor go on, for each m.
    - `stopping`: entry m goes on if it is among the best ceil(m / factor) of the first m.

    Attributes:
        type: `promotion` or `stopping`.
        epochs: Epochs after which a rung compares, ascending; the last ones are the whole training.
        factor: Of this many trials one goes on to the next rung.
        mode: Whether the largest or the smallest metric is the best: `max` or `min`.
        samples: Number of trials. A sweep that had ended and was widened has one number for each
            time, ascending: its first end is part of its history.

    Raises:
        UsageError: A value makes no sense.
    """

    type: str
    epochs: tuple[int, ...]
    factor: int
    mode: str
    samples: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = tuple(sorted({*self.epochs})), tuple(sorted({*self.samples}))
        if self.type not in (PROMOTION, STOPPING) or self.mode not in ("max", "min"):
            raise UsageError(f"no method is {self.type!r} with mode {self.mode!r}")
        if not self.epochs or not self.samples or ascending != (self.epochs, self.samples):
            raise UsageError(f"rungs {self.epochs} and samples {self.samples} have to ascend")
        if min(self.epochs) < 1 or min(self.samples) < 1 or self.factor < 2:
            raise UsageError(
                f"rungs {self.epochs} and samples {self.samples} begin at 1, "
                f"and a factor of {self.factor} is less than 2"
            )

    def quota(self, num_entries: int) -> int:
        """How many of the first entries of a rung may go on.

        Args:
            num_entries: Number of first entries that are compared.
        """
        if self.type == PROMOTION:
            return num_entries // self.factor
        return -(-num_entries // self.factor)


def rung_epochs(longest: int, grace_period: int, factor: int) -> tuple[int, ...]:
    """Epochs of the rungs: the grace period, each `factor` times the one before, and the longest.

    Args:
        longest: Most epochs of a trial.
        grace_period: Epochs before the first comparison.
        factor: Factor between two rungs, at least 2.
    """
    rungs = []
    epochs = grace_period
    while epochs < longest:
        rungs.append(epochs)
        epochs *= factor
    return (*rungs, longest)
