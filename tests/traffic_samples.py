"""Keys and tallies for tests of traffic."""

from __future__ import annotations

from raydc.serve.tally import Tally

KEYS = [f"user-{number}" for number in range(4000)]


def tallied(
    answered: int, errors: int = 0, seconds: float = 0.01, refused: int = 0, error: int = 500
) -> Tally:
    tally = Tally()
    for status, count in ((200, answered), (error, errors), (422, refused), (429, 7)):
        for _ in range(count):
            tally.add(status, seconds)
    return tally
