"""The decisions of a whole sweep, from results that come in any order. Pure.

The journal has the order of a sweep that runs one trial at a time and lets those that go on go on
at once: depth first. A decision is written as soon as all before it are, but trials do not wait for
the journal: whoever goes on whatever the missing results are, goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from raydc.search.method import Method
from raydc.search.rung import Rung
from raydc.storage import canonical_json, sha256

# A result: number of the trial and of the rung.
Result = tuple[int, int]
_FORMAT = 1


def decide(
    seed: int,
    space: Mapping[str, Any],
    method: Method,
    results: Mapping[Result, float | None],
) -> list[bytes]:
    """The journal of a sweep, as far as its results decide it.

    Args:
        seed: Seed of the draw, for the first line.
        space: Domains of the search by path, as plain values, for the first line.
        method: What decides which trials go on.
        results: Metric by number of the trial and of the rung. None, an infinite metric and one
            that is no number are the worst: the trial failed by itself or diverged. What is lost
            with a machine is no result, and is left out.

    Returns:
        Lines of JSON without line ends; each has the hash of the one before it.
    """
    fold = DecisionFold(seed, space, method)
    for result in sorted(results):
        fold.add(result, results[result])
    return fold.lines


class DecisionFold:
    """A sweep that takes its results one by one and says what to run next.

    Args:
        seed: As for `decide`.
        space: As for `decide`.
        method: As for `decide`.
        draws: What chooses the points, for the first line; None for random points.

    Attributes:
        lines: The journal so far, as `decide` returns it.
        is_complete: Whether the sweep has ended: nothing is left to run.
    """

    def __init__(
        self,
        seed: int,
        space: Mapping[str, Any],
        method: Method,
        draws: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        last = len(method.epochs) - 1
        self._rungs = [Rung(method, is_last=number == last) for number in range(last + 1)]
        self._rungs[0].extend(range(method.samples[-1]))
        self._rungs[0].ends += method.samples
        # What may run and has no result yet. Of the first rung it is everything.
        self._wanted: set[Result] = {(trial, 0) for trial in range(method.samples[-1])}
        self.lines: list[bytes] = []
        self.is_complete = False
        # Numbers of rungs whose next entry comes next in the journal, the last one first.
        self._next_rungs: list[int] = []
        self._num_written = [0] * len(self._rungs)
        self._section, self._closing = 0, 0
        self._best: tuple[float, int] | None = None
        self._write(
            kind="sweep",
            format=_FORMAT,
            seed=seed,
            space=dict(space),
            method={
                "type": method.type,
                "epochs": list(method.epochs),
                "factor": method.factor,
                "mode": method.mode,
            },
            # Journals of random points are older than draws, and stay as they are.
            **({} if draws is None else {"draws": dict(draws)}),
        )

    def add(self, result: Result, metric: float | None) -> None:
        """Takes a result, in whatever order; the same one twice changes nothing.

        Args:
            result: Number of the trial and of the rung.
            metric: Its metric; None, infinite or not a number: the worst of all.

        Raises:
            ValueError: There is a different metric of it already: results are exact, so one of both
                is not of this sweep.
        """
        trial, number = result
        if metric is not None and not math.isfinite(metric):
            metric = None
        known = self._rungs[number].metrics
        if trial in known and known[trial] != metric:
            raise ValueError(
                f"trial {trial} has a metric of {metric} after {self.method.epochs[number]} "
                f"epochs, and had {known[trial]} before"
            )
        if trial in known:
            return
        self._rungs[number].take(trial, metric)
        self._wanted.discard(result)
        self._advance(number)
        for record in self._walk():
            self._write(**record)

    def runnable(self) -> list[Result]:
        """What may run now: the longest trials first, among equals the lower number."""
        return sorted(self._wanted, key=lambda result: (-result[1], result[0]))

    def has_result(self, result: Result) -> bool:
        """Whether a result is known."""
        return result[0] in self._rungs[result[1]].metrics

    def first_metrics(self) -> Mapping[int, float | None]:
        """What is known of the first rung, by number of the trial; None for the worst of all."""
        return self._rungs[0].metrics

    def last_result(self, trial: int) -> tuple[int, float | None] | None:
        """The highest rung of which a trial has a result, and its metric there; None before."""
        for number in reversed(range(len(self._rungs))):
            if trial in self._rungs[number].metrics:
                return number, self._rungs[number].metrics[trial]
        return None

    def count_epochs(self) -> tuple[int, float]:
        """Epochs that have results, and those that are expected to come, of all trials."""
        done, left, before = 0, 0.0, 0
        num_entries = float(self.method.samples[-1])
        for epochs, rung in zip(self.method.epochs, self._rungs, strict=True):
            num_known = len(rung.metrics)
            done += num_known * (epochs - before)
            left += max(0.0, num_entries - num_known) * (epochs - before)
            num_entries, before = rung.expect_going(num_entries), epochs
        return done, left

    def stopped_after(self, trial: int) -> int | None:
        """The rung after which a trial does not go on, once that is certain; else None."""
        for number, rung in enumerate(self._rungs):
            if rung.will_stay(trial):
                return number
        return None

    def describe_stop(self, trial: int) -> str:
        """Why a trial does not go on: `place 9 of 12 after 1 epoch, 4 go on`; empty if it may."""
        number = self.stopped_after(trial)
        # The last rung chooses nobody, so a trial that has got there was not stopped.
        if number is None or number == len(self._rungs) - 1:
            return ""
        epochs = self.method.epochs[number]
        after = f"after {epochs} epoch{'' if epochs == 1 else 's'}"
        if self._rungs[number].metrics[trial] is None:
            return f"no metric {after}"
        rank, num_entries, num_going = self._rungs[number].standing(trial)
        return f"place {rank} of {num_entries} {after}, {num_going} go on"

    def _advance(self, number: int) -> None:
        """Takes all steps that a new result of a rung allows, and finds what may run."""
        rung = self._rungs[number]
        above = self._rungs[number + 1] if number + 1 < len(self._rungs) else None
        has_moved = False
        while (goes_on := rung.advance()) is not None:
            if above is None:
                continue
            above.extend(goes_on)
            # A section of the rung above ends where this one has let its last one go on.
            num_ends = len(rung.closings) - len(above.ends)
            above.ends += [len(above.order)] * num_ends
            has_moved = has_moved or bool(goes_on) or num_ends > 0
            self._want(goes_on, number + 1)
        self._want(rung.find_certain(), number + 1)
        if has_moved:
            self._advance(number + 1)

    def _want(self, trials: Any, number: int) -> None:
        for trial in trials:
            if trial not in self._rungs[number].metrics:
                self._wanted.add((trial, number))

    def _walk(self) -> Iterator[dict[str, Any]]:
        """The records that come next in the journal, as far as they are decided."""
        while not self.is_complete:
            if self._next_rungs:
                number = self._next_rungs[-1]
                if self._num_written[number] == len(self._rungs[number].entries):
                    return
                self._next_rungs.pop()
                yield self._entry_record(number)
            elif self._num_written[0] < self.method.samples[self._section]:
                self._next_rungs.append(0)
            elif self._closing < len(self._rungs) - 1:
                closings = self._rungs[self._closing].closings
                # What the rungs below have closed is in the journal, so the result is known.
                goes_on = closings[self._section]
                self._closing += 1
                if goes_on:
                    self._next_rungs.append(self._closing)
                    yield self._closing_record(goes_on[0])
            else:
                yield self._end_record()

    def _entry_record(self, number: int) -> dict[str, Any]:
        place = self._num_written[number]
        entry = self._rungs[number].entries[place]
        self._num_written[number] += 1
        # All of them follow at once, in the order in which the next rung has them.
        self._next_rungs += [number + 1] * len(entry.goes_on)
        if entry.metric is not None:
            sign = -1.0 if self.method.mode == "max" else 1.0
            own = (sign * entry.metric, entry.trial)
            self._best = own if self._best is None else min(self._best, own)
        return {
            "kind": "entry",
            "rung": number,
            "epochs": self.method.epochs[number],
            "place": place + 1,
            "trial": entry.trial,
            "metric": entry.metric,
            "rank": entry.rank,
            "quota": entry.quota,
            "goes_on": list(entry.goes_on),
        }

    def _closing_record(self, trial: int) -> dict[str, Any]:
        number = self._closing - 1
        return {
            "kind": "closing",
            "rung": number,
            "epochs": self.method.epochs[number],
            "samples": self.method.samples[self._section],
            "goes_on": [trial],
        }

    def _end_record(self) -> dict[str, Any]:
        samples = self.method.samples[self._section]
        self._section, self._closing = self._section + 1, 0
        self.is_complete = self._section == len(self.method.samples)
        winner = None if self._best is None else self._best[1]
        return {"kind": "end", "samples": samples, "winner": winner}

    def _write(self, **record: Any) -> None:
        before = sha256(self.lines[-1]) if self.lines else ""
        self.lines.append(
            canonical_json({**record, "number": len(self.lines) + 1, "before": before})
        )
