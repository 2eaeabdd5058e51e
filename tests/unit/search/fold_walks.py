"""Sweeps whose results come in a random order, with lost workers and killed drivers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from raydc.search import DecisionFold, Method

SPACE = {"train.learning_rate": {"loguniform": [1e-4, 1e-1]}}
Curves = Sequence[Sequence[float | None]]


def new_fold(method: Method) -> DecisionFold:
    return DecisionFold(5, SPACE, method)


def sequential(method: Method, curves: Curves) -> DecisionFold:
    """A sweep with one worker that runs what goes on at once."""
    fold = new_fold(method)
    while fold.runnable():
        trial, rung = fold.runnable()[0]
        fold.add((trial, rung), curves[trial][rung])
    return fold


class RandomSweep:
    """A sweep on some workers; what comes next is drawn.

    Args:
        method: Its method.
        curves: Metrics by trial and rung.
        random: Draws which worker returns, is lost, or whether the driver is killed.
        workers: Number of workers.
        troubles: How many of ten returns are a lost worker or a killed driver instead.
    """

    def __init__(
        self, method: Method, curves: Curves, random: random.Random, workers: int, troubles: int
    ) -> None:
        self._method, self._curves, self._random = method, curves, random
        self._workers, self._troubles = workers, troubles
        self._results: dict[tuple[int, int], float | None] = {}
        self.executed: list[tuple[int, int]] = []
        self.num_lost, self.num_killed = 0, 0

    def run(self) -> DecisionFold:
        fold = new_fold(self._method)
        running: list[tuple[int, int]] = []
        while True:
            for result in fold.runnable():
                if len(running) < self._workers and result not in running:
                    running.append(result)
            if not running:
                return fold
            result = running.pop(self._random.randrange(len(running)))
            if self._random.randrange(10) < self._troubles:
                # Either way it is no result, and runs again.
                if self._random.randrange(4):
                    self.num_lost += 1
                else:
                    self.num_killed += 1
                    running = []
                    fold = self._rebuild()
                continue
            self.executed.append(result)
            self._results[result] = self._curves[result[0]][result[1]]
            fold.add(result, self._results[result])

    def _rebuild(self) -> DecisionFold:
        """What the next driver finds in the folders of the trials, in any order."""
        fold = new_fold(self._method)
        found = list(self._results)
        self._random.shuffle(found)
        for result in found:
            fold.add(result, self._results[result])
        return fold


def by_arrival(method: Method, arrivals: Sequence[tuple[int, int]], curves: Curves) -> list[str]:
    """The control: the same rule over entries in the order in which they come, as ASHA has it."""
    seen: Mapping[int, list[tuple[float, int]]] = {rung: [] for rung in range(len(method.epochs))}
    gone: set[tuple[int, int]] = set()
    for trial, rung in arrivals:
        metric = curves[trial][rung]
        seen[rung].append((-1e9 if metric is None else metric, -trial))
        best = sorted(seen[rung], reverse=True)[: method.quota(len(seen[rung]))]
        gone |= {(-number, rung) for value, number in best if value > -1e9}
    return sorted(map(str, gone))
