"""Seconds of CPU at which steps of a training begin, for benchmarks in one process."""

from __future__ import annotations

import time

from raydc.loop.fault_injection import FaultInjector


class StepClock(FaultInjector):
    """Injects nothing, and notes when each step begins.

    Attributes:
        at_step: CPU seconds of this process at the begin of each step, counted from 1.
    """

    def __init__(self) -> None:
        self.planned = []
        self.at_step: dict[int, float] = {}

    def before_step(self, step: int) -> None:
        self.at_step[step] = time.process_time()

    def restored(self, step: int) -> None:
        """Continues."""

    def reached(self, place: str) -> None:
        """Continues."""

    def rate(self, per_step: int, first: int = 1) -> float:
        """Rows, or whatever else a step has, for each second of CPU.

        Args:
            per_step: Number of them in a step.
            first: The step from whose begin on it is measured, to the begin of the last one.
        """
        last = max(self.at_step)
        return per_step * (last - first) / (self.at_step[last] - self.at_step[first])
