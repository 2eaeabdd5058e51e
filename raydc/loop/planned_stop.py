"""A planned end of a group of workers: asked for from outside, agreed on by all ranks before the same step.

Ray cannot change a running group, it starts another. The ranks write a checkpoint first, so that no step is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from raydc.loop.group import Group

# What it can be: the group is to grow, or one of its nodes is about to go.
GROW, DRAIN = "grow", "drain"
REASONS = (GROW, DRAIN)
_LOOK_EVERY_S = 0.5
_MOST_STEPS = 1000

Pending = Callable[[], str | None]
_asked: str | None = None


class PlannedStopError(Exception):
    """The workers ended by agreement, with everything they did in a checkpoint. Not a failure.

    Args:
        reason: One of REASONS.
        step: Steps done.
    """

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason, step)
        self.reason = reason
        self.step = step

    def __str__(self) -> str:
        return f"left after step {self.step}: {self.reason}"


def request_stop(reason: str) -> None:
    """Asks the workers to end. Called in the process of rank 0, from another thread than the loop's."""
    global _asked
    _asked = reason


def requested_reason() -> str | None:
    """What this process was asked for."""
    return _asked


class StopAgreement:
    """Tells all ranks at the same step what rank 0 was asked.

    Rank 0 is looked at several times a second, not at every step: each look tells the number of steps to the next, so
    all ranks join in the same ones. A look is one broadcast of a number.

    Args:
        group: The workers.
        pending: What this process was asked for, if anything; only rank 0's counts.
    """

    def __init__(self, group: Group, pending: Pending) -> None:
        self._group = group
        self._pending = pending
        self._steps_left = 1
        self._steps = 1
        self._looked_s = time.monotonic()

    def reached(self) -> str | None:
        """Called by every rank before each step: the reason to end here, the same on all ranks, or None."""
        self._steps_left -= 1
        if self._steps_left > 0:
            return None
        answer = self._group.broadcast(self._answer() if self._group.rank == 0 else 0)
        self._steps_left = answer
        return None if answer > 0 else REASONS[-answer]

    def _answer(self) -> int:
        """Steps until the next look, or 0 and below: minus the index of the reason."""
        reason = self._pending()
        if reason is not None:
            return -REASONS.index(reason)
        now_s = time.monotonic()
        step_s = (now_s - self._looked_s) / self._steps
        self._looked_s = now_s
        self._steps = max(
            1, min(_MOST_STEPS, 2 * self._steps, int(_LOOK_EVERY_S / max(step_s, 1e-6)))
        )
        return self._steps
