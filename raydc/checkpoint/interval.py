"""When the next checkpoint is due: after a number of steps, of seconds, or of as many seconds as pay best. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raydc.spec.train import Checkpoint

# Where no failure has been seen: one a day, worth one observation beside those of the run itself.
PRIOR_MTBF_S = 86400.0
LEAST_S, MOST_S = 5.0, 1800.0
# The thread that writes may be busy for this fraction of the time: it takes memory bandwidth and CPU from the steps.
_MOST_BUSY_FRACTION = 0.25
_REMEMBERED = 5


def young_daly(cost_s: float, mtbf_s: float) -> float:
    """Seconds between two checkpoints that lose the least time: sqrt(2 * cost * MTBF).

    Young, A first order approximation to the optimum checkpoint interval, CACM 1974; Daly, A higher order estimate of
    the optimum checkpoint interval for restart dumps, FGCS 2006.

    Args:
        cost_s: Seconds that the steps wait for a checkpoint.
        mtbf_s: Mean seconds between two failures.
    """
    return math.sqrt(2.0 * cost_s * mtbf_s)


@dataclass(frozen=True)
class FailureHistory:
    """What has been seen of a run: so many failures in so many seconds of training."""

    num_failures: int = 0
    observed_s: float = 0.0

    @property
    def mtbf_s(self) -> float:
        """Mean seconds between failures; the prior counts as one failure after its time."""
        return (PRIOR_MTBF_S + self.observed_s) / (1 + self.num_failures)


def observed(events: Iterable[Mapping[str, Any]]) -> FailureHistory:
    """Failures of a run before the attempt that begins now.

    An attempt that neither finished nor handed its state over on purpose has failed. What lies between the last event
    of one attempt and the first of the next is not training.

    Args:
        events: Lines of `events.jsonl`, in the order of writing.
    """
    num_failures, observed_s = 0, 0.0
    begun_s: float | None = None
    last_s, on_purpose = 0.0, True
    for event in events:
        if event["kind"] == "attempt_started":
            if begun_s is not None:
                observed_s += max(0.0, last_s - begun_s)
                num_failures += not on_purpose
            begun_s, on_purpose = event["time_s"], False
        if event["kind"] != "time":  # Of which the next attempt may have written the last.
            last_s = event["time_s"]
        on_purpose = on_purpose or event["kind"] in ("run_finished", "handed_over")
    if begun_s is not None:
        observed_s += max(0.0, last_s - begun_s)
        num_failures += not on_purpose
    return FailureHistory(num_failures, observed_s)


class CheckpointInterval:
    """Says when a checkpoint is due.

    Args:
        section: Section `checkpoint` of a resolved spec.
        failures: What has been seen of the run so far.
        step: Steps done when the attempt begins.
        now_s: Any clock that only goes forward; the same in all calls.
    """

    def __init__(
        self, section: Checkpoint, failures: FailureHistory, step: int, now_s: float
    ) -> None:
        self._section = section
        self._failures = failures
        self._step, self._since_s, self._began_s = step, now_s, now_s
        self._costs_s: list[float] = []
        self._writes_s: list[float] = []

    @property
    def is_a_promise(self) -> bool:
        """Whether no more steps than asked for may lie between two checkpoints, even if a step has to wait."""
        return self._section.every_steps is not None

    def is_due(self, step: int, now_s: float) -> bool:
        """Whether a checkpoint is due after `step` steps; it stays due until one is taken."""
        every = self._section.every_steps
        if every is not None:
            return step // every > self._step // every
        return now_s - self._since_s >= self.seconds(now_s)

    def taken(self, step: int, now_s: float, cost_s: float) -> None:
        """A checkpoint was copied, for which the steps waited `cost_s`."""
        self._step, self._since_s = step, now_s
        self._costs_s = [*self._costs_s, cost_s][-_REMEMBERED:]

    def waited(self, cost_s: float) -> None:
        """The steps waited `cost_s` more for the checkpoint that was taken last."""
        if self._costs_s:
            self._costs_s[-1] += cost_s

    def written(self, write_s: float) -> None:
        """The thread needed `write_s` to write one."""
        self._writes_s = [*self._writes_s, write_s][-_REMEMBERED:]

    def seconds(self, now_s: float) -> float:
        """Seconds between two checkpoints as they are wanted now; unused where steps are counted."""
        wanted = self._section.every_seconds
        if wanted != "auto":
            return wanted or 0.0
        if not self._costs_s:
            return LEAST_S  # The first one shows what it costs.
        best = young_daly(statistics.median(self._costs_s), self.mtbf_s(now_s))
        least = max(LEAST_S, statistics.median(self._writes_s or [0.0]) / _MOST_BUSY_FRACTION)
        return min(max(best, least), max(MOST_S, least))

    def mtbf_s(self, now_s: float) -> float:
        """Mean seconds between failures, this attempt included."""
        seen = self._failures
        return FailureHistory(seen.num_failures, seen.observed_s + now_s - self._began_s).mtbf_s

    def explain(self, now_s: float) -> dict[str, float | int]:
        """How the interval was chosen, for an event."""
        return {
            "interval_s": round(self.seconds(now_s), 1),
            "cost_s": round(statistics.median(self._costs_s or [0.0]), 6),
            "mtbf_s": round(self.mtbf_s(now_s)),
            "failures": self._failures.num_failures,
        }
