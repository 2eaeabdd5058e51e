"""How the requests to one version went: counts and a histogram of their seconds, which add up over replicas."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# Upper bounds in seconds, a factor of sqrt(2) apart: a percentile is right within a fifth.
BOUNDS_S = tuple(0.0005 * 2 ** (k / 2) for k in range(36))


@dataclass
class Tally:
    """Requests of one version. An error is an answer with a status of 500 or above."""

    num_requests: int = 0
    num_errors: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, status: int, seconds: float) -> None:
        """Counts one answer; answers that are nobody's work (401, 404, 429 ...) are left out of the seconds."""
        self.num_requests += 1
        if status >= 500:
            self.num_errors += 1
        if status < 400:
            self.buckets[bisect.bisect_left(BOUNDS_S, seconds)] += 1

    def percentile_s(self, fraction: float) -> float | None:
        """Upper bound of the bucket that holds this fraction of the answers; None without an answer."""
        wanted = fraction * sum(self.buckets)
        seen = 0
        for bound, count in zip([*BOUNDS_S, float("inf")], self.buckets, strict=True):
            seen += count
            if seen and seen >= wanted:
                return bound
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"num_requests": self.num_requests, "num_errors": self.num_errors, "buckets": list(self.buckets)}


def total(tallies: Iterable[dict[str, Any]]) -> Tally:
    """The sum of tallies as `to_dict` gives them."""
    summed = Tally()
    for one in tallies:
        summed.num_requests += one["num_requests"]
        summed.num_errors += one["num_errors"]
        summed.buckets = [a + b for a, b in zip(summed.buckets, one["buckets"], strict=True)]
    return summed
