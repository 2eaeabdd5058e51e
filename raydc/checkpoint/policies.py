"""When a state of the run goes to storage, and when to peer memory. Pure; used by rank 0.

A policy takes the time and what happened, and returns whether a state is due. It starts nothing.
"""

from __future__ import annotations

from enum import Enum, auto

from raydc.checkpoint.interval import CheckpointInterval
from raydc.checkpoint.timing import Timing

_MAX_FAILURES = 3
# A new event reports the interval of `auto` once it has changed by more than this factor.
_NOTABLE_RATIO = 1.5


class Urgency(Enum):
    """How urgent a state is.

    NOT_DUE: None is due.
    IF_FREE: One is due, and taken as soon as the one before has arrived. No step waits for that.
    NOW: One is due, and the step waits until it can be taken.
    """

    NOT_DUE = auto()
    IF_FREE = auto()
    NOW = auto()


class StoragePolicy:
    """Decides when a checkpoint goes to storage.

    Args:
        interval: Decides when a checkpoint is due, in steps or in seconds.

    Attributes:
        num_failures: Checkpoints in a row that could not be written.
    """

    def __init__(self, interval: CheckpointInterval) -> None:
        self._interval = interval
        self._shown_s = 0.0
        self.num_failures = 0

    def urgency(self, step: int, now_s: float) -> Urgency:
        """How urgent a checkpoint is after `step` steps."""
        if not self._interval.is_due(step, now_s):
            return Urgency.NOT_DUE
        # An interval in steps limits the loss, so the step waits. One in seconds is only a target.
        return Urgency.NOW if self._interval.counts_steps else Urgency.IF_FREE

    @property
    def has_given_up(self) -> bool:
        """Whether too many checkpoints in a row could not be written for the run to continue."""
        return self.num_failures >= _MAX_FAILURES

    def record_copy(self, step: int, now_s: float, cost_s: float) -> None:
        """Notes that a checkpoint was copied.

        Args:
            step: Completed steps of the copied state.
            now_s: Monotonic time after the copy.
            cost_s: Seconds that the steps waited for the copy.
        """
        self._interval.record_copy(step, now_s, cost_s)

    def add_cost(self, cost_s: float) -> None:
        """Adds to the cost of the last copy: the steps waited `cost_s` more for it."""
        self._interval.add_cost(cost_s)

    def record_write(self, write_s: float) -> None:
        """Notes that a checkpoint was written, in `write_s`."""
        # Only failures in a row count: storage works again.
        self.num_failures = 0
        self._interval.record_write(write_s)

    def record_failure(self) -> None:
        """Notes that a checkpoint could not be written, after all attempts."""
        self.num_failures += 1

    def explain_change(self, now_s: float) -> dict[str, float | int] | None:
        """Fields of an event if `auto` has chosen a notably different interval, else None."""
        if not self._interval.is_automatic:
            return None
        interval_s = self._interval.interval_s(now_s)
        if 1 / _NOTABLE_RATIO < self._shown_s / interval_s < _NOTABLE_RATIO:
            return None
        self._shown_s = interval_s
        return self._interval.explain(now_s)


class MemoryPolicy:
    """Decides when a state goes to peer memory, so that a failure loses few steps.

    A state is sent early enough to arrive before it is needed: at four fifths of the steps that may
    be lost. Once a state has arrived, the limit is a promise: if a state is still on its way when
    the limit is reached, the step waits.

    Args:
        max_recomputed_steps: Maximum number of steps that a failure may lose.
        timing: Limits in seconds, which replace those in steps if steps are fast.
    """

    def __init__(self, max_recomputed_steps: int, timing: Timing) -> None:
        self._max_steps = max_recomputed_steps
        # The last fifth leaves time for the state to travel while steps continue.
        self._every_steps = max(1, max_recomputed_steps * 4 // 5)
        self._timing = timing
        self._step, self._sent_s, self._not_before_s = 0, 0.0, 0.0
        self._is_promised = False

    def start(self, step: int) -> None:
        """Starts an attempt that continues after `step` steps."""
        self._step = step

    def urgency(self, step: int, now_s: float) -> Urgency:
        """How urgent a state in memory is after `step` steps."""
        if step - self._step < self._every_steps or now_s < self._not_before_s:
            return Urgency.NOT_DUE
        # No step waits for memory that has not come up yet.
        return Urgency.NOW if self._is_promised else Urgency.IF_FREE

    def must_have_arrived(self, step: int, now_s: float) -> bool:
        """Whether the last state must be in memory before the step after `step` steps."""
        # The state before the last one is `_every_steps` older. Once this many steps follow the
        # last one, a failure would lose more than the limit if only the older one had arrived.
        is_late = step - self._step >= self._max_steps - self._every_steps
        return is_late and self._is_promised and now_s - self._sent_s >= self._timing.memory_late_s

    def record_send(self, step: int, now_s: float) -> None:
        """Notes that the state after `step` steps is on its way."""
        self._step, self._sent_s = step, now_s
        self._not_before_s = now_s + self._timing.memory_every_s

    def record_arrival(self) -> bool:
        """Notes that a state has arrived. Returns whether it is the first since a refusal."""
        is_first = not self._is_promised
        self._is_promised = True
        return is_first

    def record_refusal(self, now_s: float) -> None:
        """Notes that memory has refused a state: nothing is promised until one arrives."""
        self._is_promised = False
        self._not_before_s = now_s + self._timing.memory_pause_s
