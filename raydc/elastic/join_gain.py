"""When it pays that idle workers join a running trial. Pure.

A change of workers stops a trial for a while. It pays for a trial with enough work left, whose
steps get shorter: a worker computes its logical shards one after the other, so that three workers
are no faster than two with four shards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# What a worker adds falls with their number: each of m computes m ** -0.2 as fast as one alone.
_SHARED = 0.2
# The workers may be needed elsewhere before the trial is done, which stops it once more.
_NUM_STOPS = 2


@dataclass(frozen=True)
class RunningTrial:
    """A trial that trains.

    Attributes:
        key: Key of the trial.
        left_s: Seconds until its segment ends, with the workers that it has.
        workers: Number of these.
    """

    key: str
    left_s: float
    workers: int


def speed(workers: int, shards: int) -> float:
    """Steps per second by those of one worker.

    Args:
        workers: Number of workers, no more than shards.
        shards: Logical shards of a step.
    """
    # A worker with more shards makes the others wait.
    passes = -(-shards // workers)
    return shards / passes * math.pow(workers, -_SHARED)


def choose_joins(
    trials: Sequence[RunningTrial], free: int, most: int, shards: int, join_s: float
) -> dict[str, int]:
    """Distributes idle workers: first to the trial that is done last.

    Args:
        trials: The trials that train.
        free: Number of idle workers.
        most: Most workers of a trial.
        shards: Logical shards of a step.
        join_s: Seconds for which a trial stands still when its workers change.

    Returns:
        The new number of workers of each trial that gets some, by its key.
    """
    now = {trial.key: (trial.left_s, trial.workers) for trial in trials}
    found: dict[str, int] = {}
    while free > 0:
        for key in sorted(now, key=lambda key: -now[key][0]):
            left_s, workers = now[key]
            faster = (m for m in range(workers + 1, min(most, workers + free) + 1))
            more = next((m for m in faster if speed(m, shards) > speed(workers, shards)), None)
            if more is None:
                continue
            # One that gets several workers at once stops once for all of them.
            stops_s = 0.0 if key in found else _NUM_STOPS * join_s
            after_s = stops_s + left_s * speed(workers, shards) / speed(more, shards)
            if after_s < left_s:
                free -= more - workers
                now[key], found[key] = (after_s, more), more
                break
        else:
            break
    return found
