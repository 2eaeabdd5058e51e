"""A planned stop of the workers: requested from outside, agreed on before the same step by all.

Runs in each worker. Ray cannot resize a running group, it can only start another one. The ranks
write a checkpoint before they stop, so that no step is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The controller uses this module too, and loads no torch.
    from raydc.loop.group import Group

# Why workers stop: the group can grow, a node of it is about to be taken away, a signal asked the
# driver to end, a trial has reached the epoch at which its sweep compares it with others, or it
# gives workers back to its sweep.
GROW, DRAIN, INTERRUPT, RUNG, SHRINK = "grow", "drain", "interrupt", "rung", "shrink"
REASONS = (GROW, DRAIN, INTERRUPT, RUNG, SHRINK)
# Seconds between two checks. Clouds announce the end of an instance 30 s before it or earlier.
_CHECK_EVERY_S = 0.5
_MAX_STEPS_BETWEEN_CHECKS = 1000
_NO_REASON = -1

# Returns the reason of a stop that was requested in this process, or None.
StopRequest = Callable[[], str | None]
_requested: str | None = None


class PlannedStopError(Exception):
    """The workers stopped by agreement, and all that they did is in a checkpoint. Not a failure.

    Args:
        reason: Why the run stops, one of REASONS.
        step: Completed steps at the stop, from which the next attempt continues.
    """

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason, step)
        self.reason = reason
        self.step = step

    def __str__(self) -> str:
        return f"stopped as planned after step {self.step}: {self.reason}"


def request_stop(reason: str) -> None:
    """Requests a stop. Called in the process of rank 0, in a different thread from the loop's."""
    global _requested
    _requested = reason


def requested_reason() -> str | None:
    """Reason of the stop that was requested in this process, or None."""
    return _requested


class StopAgreement:
    """Makes all ranks learn before the same step whether rank 0 received a request to stop.

    Each check is a broadcast, which would be too much for every step. Therefore each check also
    says after how many steps the next one comes, so that all ranks take part in the same ones.

    Args:
        group: The process group, in which rank 0 broadcasts; every rank must take part.
        stop_request: Returns the reason of a requested stop. Only that of rank 0 counts.
    """

    def __init__(self, group: Group, stop_request: StopRequest) -> None:
        self._group = group
        self._stop_request = stop_request
        self._steps_left = 1
        self._num_steps = 1
        self._checked_s = time.monotonic()

    def agreed_reason(self) -> str | None:
        """Reason to stop before the next step, the same on all ranks; None to continue.

        Every rank must call this before each step.
        """
        self._steps_left -= 1
        if self._steps_left > 0:
            return None
        # Only rank 0's numbers count: another rank's clock must not decide when the next check is.
        mine = self._check() if self._group.world.rank == 0 else (_NO_REASON, 0)
        index, self._steps_left = self._group.broadcast(mine)
        return None if index == _NO_REASON else REASONS[index]

    def _check(self) -> tuple[int, int]:
        """Index of the requested reason, or _NO_REASON; and the steps to the next check."""
        reason = self._stop_request()
        index = _NO_REASON if reason is None else REASONS.index(reason)
        now_s = time.monotonic()
        step_s = (now_s - self._checked_s) / self._num_steps
        self._checked_s = now_s
        # At most twice as many as before: one step that was fast by chance proves little.
        steps = min(
            _MAX_STEPS_BETWEEN_CHECKS, 2 * self._num_steps, int(_CHECK_EVERY_S / max(step_s, 1e-6))
        )
        self._num_steps = max(1, steps)
        return index, self._num_steps
