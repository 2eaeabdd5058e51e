"""When the next checkpoint is due: by steps, by seconds, or by the cheapest interval. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raydc.checkpoint.timing import Timing
from raydc.spec.resolved import ResolvedCheckpoint

# One failure a day, as long as a run has seen none. It weighs as much as one observed failure.
PRIOR_MTBF_S = 86400.0
MAX_INTERVAL_S = 1800.0
# Writing takes memory bandwidth and CPU from the steps, so the thread must rest most of the time.
_MAX_BUSY_FRACTION = 0.25
# Costs change with the load of the storage; older ones say little.
_NUM_REMEMBERED = 5


def young_daly(cost_s: float, mtbf_s: float) -> float:
    """Interval between two checkpoints that loses the least time: sqrt(2 * cost * MTBF).

    Young, A first order approximation to the optimum checkpoint interval, CACM 1974; Daly, A higher
    order estimate of the optimum checkpoint interval for restart dumps, FGCS 2006.

    Args:
        cost_s: Seconds that the steps wait for a checkpoint.
        mtbf_s: Mean seconds between two failures.
    """
    return math.sqrt(2.0 * cost_s * mtbf_s)


@dataclass(frozen=True)
class FailureHistory:
    """Failures of a run so far.

    Attributes:
        num_failures: Number of attempts that did not end on purpose.
        observed_s: Seconds of training in which they happened.
    """

    num_failures: int = 0
    observed_s: float = 0.0

    @property
    def mtbf_s(self) -> float:
        """Mean seconds between failures; the prior counts as one failure after its time."""
        return (PRIOR_MTBF_S + self.observed_s) / (1 + self.num_failures)


def read_failures(events: Iterable[Mapping[str, Any]]) -> FailureHistory:
    """Failures of a run before the attempt that starts now.

    An attempt failed if it neither finished nor handed its state over on purpose. The time between
    the last event of an attempt and the first of the next one is not training.

    Args:
        events: Lines of `events.jsonl`, in the order of writing.
    """
    num_failures, observed_s = 0, 0.0
    started_s: float | None = None
    last_s, on_purpose = 0.0, True
    for event in events:
        if event["kind"] == "attempt_started":
            if started_s is not None:
                observed_s += max(0.0, last_s - started_s)
                num_failures += not on_purpose
            started_s, on_purpose = event["time_s"], False
        # The next attempt may have written the last time record of a killed one.
        if event["kind"] != "time":
            last_s = event.get("time_s", last_s)
        on_purpose = on_purpose or event["kind"] in ("run_finished", "handed_over")
    if started_s is not None:
        observed_s += max(0.0, last_s - started_s)
        num_failures += not on_purpose
    return FailureHistory(num_failures, observed_s)


class CheckpointInterval:
    """Decides when a checkpoint is due.

    Args:
        section: Section `checkpoint` of a resolved spec.
        failures: Failures of the run so far, from which `auto` estimates the time between two.
        step: Completed steps when the attempt starts.
        now_s: Monotonic time, of the same clock in all calls.
        min_interval_s: Shortest interval that `auto` chooses.
    """

    def __init__(
        self,
        section: ResolvedCheckpoint,
        failures: FailureHistory,
        step: int,
        now_s: float,
        min_interval_s: float = Timing.min_interval_s,
    ) -> None:
        self._section = section
        self._failures = failures
        self._min_interval_s = min_interval_s
        self._step, self._since_s, self._started_s = step, now_s, now_s
        self._costs_s: list[float] = []
        self._writes_s: list[float] = []

    @property
    def counts_steps(self) -> bool:
        """Whether the interval is a number of steps, which must hold even if a step has to wait."""
        return self._section.every_steps is not None

    @property
    def is_automatic(self) -> bool:
        """Whether the interval is chosen from the cost of checkpoints and the failures."""
        return self._section.every_seconds == "auto"

    def is_due(self, step: int, now_s: float) -> bool:
        """Whether a checkpoint is due after `step` steps; it stays due until one is copied."""
        every = self._section.every_steps
        if every is not None:
            # Multiples of `every` are due, wherever the attempt started.
            return step // every > self._step // every
        return now_s - self._since_s >= self.interval_s(now_s)

    def record_copy(self, step: int, now_s: float, cost_s: float) -> None:
        """Notes that a checkpoint was copied.

        Args:
            step: Completed steps of the copied state.
            now_s: Time after the copy, of the clock of `__init__`.
            cost_s: Seconds that the steps waited for it.
        """
        self._step, self._since_s = step, now_s
        self._costs_s = [*self._costs_s, cost_s][-_NUM_REMEMBERED:]

    def add_cost(self, cost_s: float) -> None:
        """Adds to the cost of the last copy: the steps waited `cost_s` more for it."""
        if self._costs_s:
            self._costs_s[-1] += cost_s

    def record_write(self, write_s: float) -> None:
        """Notes that the thread took `write_s` to write a checkpoint."""
        self._writes_s = [*self._writes_s, write_s][-_NUM_REMEMBERED:]

    def interval_s(self, now_s: float) -> float:
        """Seconds between two checkpoints; ignored if steps are counted."""
        wanted = self._section.interval_s
        if wanted != "auto":
            return wanted
        if not self._costs_s:
            # The first checkpoint shows what one costs, so it comes soon.
            return self._min_interval_s
        # The median: one copy that was slow by chance must not decide.
        best = young_daly(statistics.median(self._costs_s), self.mtbf_s(now_s))
        write_s = statistics.median(self._writes_s or [0.0])
        least = max(self._min_interval_s, write_s / _MAX_BUSY_FRACTION)
        # Storage that is slower than the upper bound allows raises the bound.
        return min(max(best, least), max(MAX_INTERVAL_S, least))

    def mtbf_s(self, now_s: float) -> float:
        """Mean seconds between failures, this attempt included."""
        seen = self._failures
        return FailureHistory(seen.num_failures, seen.observed_s + now_s - self._started_s).mtbf_s

    def explain(self, now_s: float) -> dict[str, float | int]:
        """Fields of an event that explains the chosen interval."""
        return {
            "interval_s": round(self.interval_s(now_s), 1),
            "cost_s": round(statistics.median(self._costs_s or [0.0]), 6),
            "mtbf_s": round(self.mtbf_s(now_s)),
            "failures": self._failures.num_failures,
        }
