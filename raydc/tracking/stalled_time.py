"""Which seconds of a run passed while one of its workers stood still. Pure.

A worker reports when it stood still; rank 0 reports sums of its phases over windows of some
seconds. The two come in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

# Reports of one moment come within minutes of each other; older ones are forgotten.
_KEPT_S = 3600.0


@dataclass
class Window:
    """Sums of a phase timer.

    Attributes:
        since_s: Unix time at which it begins.
        until_s: Unix time at which it ends.
        seconds: Seconds by phase that nobody was found to have stood still in.
    """

    since_s: float
    until_s: float
    seconds: dict[str, float]

    def take(self, since_s: float, until_s: float) -> Iterator[tuple[str, float]]:
        """Takes the seconds of a standstill out of the phases that it was in.

        Args:
            since_s: Unix time at which it began.
            until_s: Unix time at which it ended.

        Yields:
            A phase, and the seconds that it loses.
        """
        left_s = min(until_s, self.until_s) - max(since_s, self.since_s)
        # It was in one phase, which therefore has at least as many seconds; mostly no other has.
        for phase in sorted(self.seconds, key=self.seconds.__getitem__, reverse=True):
            taken_s = min(left_s, self.seconds[phase])
            if taken_s <= 0:
                return
            self.seconds[phase] -= taken_s
            left_s -= taken_s
            yield phase, taken_s


@dataclass
class StalledTime:
    """Matches standstills with windows, each second once."""

    _windows: list[Window] = field(default_factory=list)
    # Disjoint: two workers that stand still at once stop the run once.
    _standstills: list[tuple[float, float]] = field(default_factory=list)

    def add_window(self, window: Window) -> Iterator[tuple[str, float]]:
        """Adds sums; yields the phases that lose seconds, and how many."""
        self._forget(window.until_s - _KEPT_S)
        self._windows.append(window)
        for since_s, until_s in self._standstills:
            yield from window.take(since_s, until_s)

    def add_standstill(self, since_s: float, until_s: float) -> Iterator[tuple[str, float]]:
        """Adds a standstill; yields the phases that lose seconds, and how many.

        Args:
            since_s: Unix time at which it began.
            until_s: Unix time at which it ended.
        """
        for part in _without([(since_s, until_s)], self._standstills):
            self._standstills.append(part)
            for window in self._windows:
                yield from window.take(*part)

    def _forget(self, before_s: float) -> None:
        self._windows = [one for one in self._windows if one.until_s >= before_s]
        self._standstills = [one for one in self._standstills if one[1] >= before_s]


def _without(
    parts: list[tuple[float, float]], covered: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """What is left of intervals after others are cut out."""
    for since_s, until_s in covered:
        parts = [
            (low, high)
            for start, end in parts
            for low, high in ((start, min(end, since_s)), (max(start, until_s), end))
            if low < high
        ]
    return parts
