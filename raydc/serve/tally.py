"""Counts of the requests to one version, in replicas; the driver adds them up."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

# Upper bounds of the histogram, a factor of sqrt(2) apart: a percentile, rounded up to a bound, is
# at most 41% too high.
BOUNDS_S = tuple(0.0005 * 2 ** (k / 2) for k in range(36))


# Refusals that say something about the version. Others (401, 404, 429 ...) never reached it.
_REFUSED = (400, 413, 415, 422)


@dataclass
class Tally:
    """Requests to one version.

    Attributes:
        num_answered: Requests that were answered.
        num_refused: Requests that were refused for their content.
        num_errors: Requests that failed: 5xx, and 408 for a version that took too long.
        buckets: Answered requests by duration, between `BOUNDS_S`; the last one is above all.
    """

    num_answered: int = 0
    num_refused: int = 0
    num_errors: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    @property
    def num_requests(self) -> int:
        """All requests that reached the version."""
        return self.num_answered + self.num_refused + self.num_errors

    @property
    def refused_fraction(self) -> float:
        """Refused requests, 0 to 1; 0 without a request."""
        return self.num_refused / self.num_requests if self.num_requests else 0.0

    def add(self, status: int, seconds: float) -> None:
        """Counts one request, unless it never reached the version.

        Args:
            status: HTTP status of the answer; some refusals count, others are ignored.
            seconds: Time from the head of the request to the end of its answer.
        """
        if status >= 500 or status == 408:
            self.num_errors += 1
        elif status < 400:
            self.num_answered += 1
            self.buckets[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        elif status in _REFUSED:
            self.num_refused += 1

    def percentile_s(self, fraction: float) -> float | None:
        """Returns a percentile of the durations, rounded up to a bound; None without an answer.

        Args:
            fraction: 0 to 1, such as 0.95.
        """
        wanted = fraction * sum(self.buckets)
        seen = 0
        for bound, count in zip([*BOUNDS_S, float("inf")], self.buckets, strict=True):
            seen += count
            if seen and seen >= wanted:
                return bound
        return None

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as plain values, for another process."""
        return asdict(self)


def sum_tallies(tallies: Iterable[dict[str, Any]]) -> Tally:
    """Adds up tallies of several replicas, each as `to_dict` returns it."""
    summed = Tally()
    for one in tallies:
        summed.num_answered += one["num_answered"]
        summed.num_refused += one["num_refused"]
        summed.num_errors += one["num_errors"]
        summed.buckets = [a + b for a, b in zip(summed.buckets, one["buckets"], strict=True)]
    return summed
