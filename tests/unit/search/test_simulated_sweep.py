"""The simulation of bench/sweep.py: its clock, what joining costs, and its ASHA."""

from __future__ import annotations

import numpy as np
import pytest

from bench.sweep import RUNGS, Asha, ByFold, Costs, simulate

# By trial and rung; the first trial is the best of all.
METRICS = np.array([[9.0] * 4, [1.0] * 4, [2.0] * 4])
WORK = np.array([[10.0, 20.0, 60.0, 180.0]] * 3)
JOINABLE = Costs(shards=1.5, join_s=2.0, num_shards=4)


def test_one_worker_takes_as_long_as_all_work() -> None:
    policy = ByFold("stopping", 3)
    makespan_s, busy = simulate(policy, 1, METRICS, WORK, Costs())
    # The first one trains to its end, the others to the first rung.
    assert makespan_s == pytest.approx(270 + 10 + 10)
    assert busy == pytest.approx(1.0)
    assert policy.fold.is_complete


def test_idle_workers_join_the_last_trial_and_are_charged() -> None:
    assert JOINABLE.speed(1) == pytest.approx(1 / 1.5)
    assert JOINABLE.speed(2) == pytest.approx(2**0.8 / 1.5)
    # Of three workers one has two of the four shards, so a third one is of no use.
    assert JOINABLE.speed(3) < JOINABLE.speed(2)
    assert JOINABLE.more(2) == 4
    policy = ByFold("stopping", 1)
    makespan_s, _ = simulate(policy, 4, METRICS, WORK, JOINABLE)
    # Two join, then four, at the beginning of each rung, which is one stop.
    expected = sum(2.0 + work * 1.5 / 4**0.8 for work in WORK[0])
    assert makespan_s == pytest.approx(expected)


class Given:
    """Results in waves: each is runnable once all before it are there, but for the long first."""

    def __init__(self) -> None:
        self.waves = [[(1, 0)], [(1, 1), (2, 1)]]
        self.long = [(0, 0)]

    def runnable(self) -> list[tuple[int, int]]:
        return [*self.long, *(self.waves[0] if self.waves else [])]

    def add(self, result: tuple[int, int], metric: float) -> None:
        if result in self.long:
            self.long.remove(result)
            return
        self.waves[0].remove(result)
        if not self.waves[0]:
            self.waves.pop(0)


def test_a_worker_that_is_taken_back_stops_the_trial_that_it_had_joined() -> None:
    costs = Costs(shards=1.0, join_s=2.0, num_shards=2)
    work = np.array([[100.0, 0.0], [10.0, 10.0], [0.0, 10.0]])
    makespan_s, _ = simulate(Given(), 3, np.zeros((3, 2)), work, costs)
    # Two workers from 2 s to 10 s, one from 12 s to 20 s, and two again from 22 s on.
    left = 100.0 - 8.0 * costs.speed(2) - 8.0
    assert makespan_s == pytest.approx(22.0 + left / costs.speed(2))


def test_joining_that_takes_longer_than_it_saves_is_left_alone() -> None:
    dear = Costs(shards=1.0, join_s=1000.0, num_shards=4)
    makespan_s, busy = simulate(ByFold("stopping", 1), 4, METRICS, WORK, dear)
    assert makespan_s == pytest.approx(270.0)
    assert busy == pytest.approx(0.25)


def test_asha_decides_by_what_has_arrived() -> None:
    first, second = Asha(3), Asha(3)
    for trial in (0, 1, 2):
        first.add((trial, 0), METRICS[trial, 0])
    for trial in (1, 2, 0):
        second.add((trial, 0), METRICS[trial, 0])
    assert list(first.runnable()) == [(0, 1)]
    # Each one was the best so far.
    assert list(second.runnable()) == [(1, 1), (2, 1), (0, 1)]
    for rung in range(1, len(RUNGS)):
        first.add((0, rung), 9.0)
    assert not first.runnable()
