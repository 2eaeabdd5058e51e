"""How the requests to one version went: counts and a histogram of their seconds, which add up over replicas."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

# Upper bounds in seconds, a factor of sqrt(2) apart: a percentile is right within a fifth.
BOUNDS_S = tuple(0.0005 * 2 ** (k / 2) for k in range(36))


# What says something of the version: it refused the request. Others (401, 404, 429 ...) never reached it.
_REFUSED = (400, 413, 415, 422)


@dataclass
class Tally:
    """Requests that one version answered, refused for what they hold, or failed on (5xx, and 408: it took too long)."""

    num_answered: int = 0
    num_refused: int = 0
    num_errors: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    @property
    def num_requests(self) -> int:
        return self.num_answered + self.num_refused + self.num_errors

    @property
    def refused_fraction(self) -> float:
        return self.num_refused / self.num_requests if self.num_requests else 0.0

    def add(self, status: int, seconds: float) -> None:
        """Counts one request; what never reached the version is left out."""
        if status >= 500 or status == 408:
            self.num_errors += 1
        elif status < 400:
            self.num_answered += 1
            self.buckets[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        elif status in _REFUSED:
            self.num_refused += 1

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
        return asdict(self)


def sum_tallies(tallies: Iterable[dict[str, Any]]) -> Tally:
    """The sum of tallies as `to_dict` gives them."""
    summed = Tally()
    for one in tallies:
        summed.num_answered += one["num_answered"]
        summed.num_refused += one["num_refused"]
        summed.num_errors += one["num_errors"]
        summed.buckets = [a + b for a, b in zip(summed.buckets, one["buckets"], strict=True)]
    return summed
