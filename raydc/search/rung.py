"""One rung of a sweep: its entries in canonical order, and which of them go on. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raydc.search.method import PROMOTION, Method


@dataclass(frozen=True)
class Entry:
    """One entry of a rung, and what it decided.

    Attributes:
        trial: Number of the trial.
        metric: Its metric at this rung; None for the worst of all.
        rank: Its rank among the entries up to it, from 1; None if it has no metric.
        quota: How many of these entries may go on.
        goes_on: Trials that go on because of this entry, the best first.
    """

    trial: int
    metric: float | None
    rank: int | None
    quota: int
    goes_on: tuple[int, ...]


class Rung:
    """The entries of one rung.

    Its order is that in which the rung below decides: trial numbers for the first rung. A section
    is the part of the order up to one end of the sweep; there is one section, and one more for each
    time that the sweep is widened.

    Args:
        method: What decides who goes on.
        is_last: Whether nobody goes on, because training ends here.

    Attributes:
        order: Trials in canonical order, as far as it is known.
        metrics: What is known by trial, in whatever order it came.
        entries: Entries in canonical order, up to the first whose metric is missing.
        closings: For each section that is complete the trials that go on at its end, one or none.
        ends: Length of the order at the end of each section, as far as it is known.
    """

    def __init__(self, method: Method, is_last: bool) -> None:
        self._method, self._is_last = method, is_last
        self._sign = -1.0 if method.mode == "max" else 1.0
        self.order: list[int] = []
        self.metrics: dict[int, float | None] = {}
        self.entries: list[Entry] = []
        self.closings: list[tuple[int, ...]] = []
        self.ends: list[int] = []
        self._places: dict[int, int] = {}
        # All known entries have a place before this one.
        self._end_of_known = 0
        self._gone: set[int] = set()
        # Rank, number of entries and quota of each entry that has a metric, when it came.
        self._ranks: dict[int, tuple[int, int, int]] = {}
        # (metric, trial) of the entries that have a metric, the best first; the lower number wins.
        self._ranked: list[tuple[float, int]] = []

    def extend(self, trials: Iterable[int]) -> None:
        """Adds trials to the end of the order."""
        for trial in trials:
            self._places[trial] = len(self.order)
            self.order.append(trial)
            if trial in self.metrics:
                self._end_of_known = len(self.order)

    def take(self, trial: int, metric: float | None) -> None:
        """Takes the metric of a trial, which need not have a place yet; None is the worst."""
        self.metrics[trial] = metric
        if trial in self._places:
            self._end_of_known = max(self._end_of_known, self._places[trial] + 1)

    def advance(self) -> Sequence[int] | None:
        """Takes the next step in canonical order: one entry, or the end of a section.

        Returns:
            The trials that go on because of it; None if a result is missing or none is left.
        """
        num_closed = len(self.closings)
        if num_closed < len(self.ends) and len(self.entries) == self.ends[num_closed]:
            self.closings.append(self._close())
            return self.closings[-1]
        if len(self.entries) == len(self.order):
            return None
        trial = self.order[len(self.entries)]
        if trial not in self.metrics:
            return None
        self.entries.append(self._enter(trial))
        return self.entries[-1].goes_on

    def will_stay(self, trial: int) -> bool:
        """Whether it is certain that a trial does not go on from this rung.

        Args:
            trial: Number of a trial.
        """
        if trial in self._gone or trial not in self.metrics:
            return False
        if self.metrics[trial] is None or len(self.closings) == len(self._method.samples):
            return True
        return self._method.type != PROMOTION and trial in self._ranks

    def standing(self, trial: int) -> tuple[int, int, int]:
        """The rank of an entry, the number of those it was compared with, and how many go on.

        Args:
            trial: Number of an entry that has a metric.
        """
        if self._method.type != PROMOTION:
            return self._ranks[trial]
        key = (self._sign * (self.metrics[trial] or 0.0), trial)
        return bisect.bisect(self._ranked, key), len(self.entries), len(self._gone)

    def expect_going(self, num_entries: float) -> float:
        """How many trials go on from this rung in the end, if results come in a random order.

        Args:
            num_entries: Number of entries that it is expected to have.
        """
        first, last = len(self.entries), round(num_entries)
        if self._method.type == PROMOTION:
            more = float(max(0, self._method.quota(last) - self._method.quota(first)))
        else:
            # The last of m is among the best q with a probability of q / m.
            more = sum(self._method.quota(m) / m for m in range(first + 1, last + 1))
        # One trial at least is trained to the end.
        return max(len(self._gone) + more, 1.0)

    def find_certain(self) -> list[int]:
        """Trials that will go on whatever the missing results are, in the order of the proof.

        At any m, an entry is among the best q of the first m, q being the quota, if it is among the
        best q - u of those that are known, u being how many of the first m are missing.
        """
        first = len(self.entries)
        # Each missing entry takes a place at least as fast as the quota grows, so that nothing is
        # certain behind the last known one.
        if self._is_last or self._end_of_known <= first:
            return []
        found: dict[int, None] = {}
        ranked, num_missing = list(self._ranked), 0
        for place in range(first, self._end_of_known):
            trial = self.order[place]
            if trial in self.metrics:
                self._rank(ranked, trial)
            else:
                num_missing += 1
            num_sure = self._method.quota(place + 1) - num_missing
            if num_sure <= 0:
                continue
            sure = [other for _, other in ranked[:num_sure]]
            if self._method.type != PROMOTION:
                # An entry is asked once, when it comes.
                sure = [trial] if trial in sure else []
            found.update(dict.fromkeys(sure))
        return [trial for trial in found if trial not in self._gone]

    def _rank(self, ranked: list[tuple[float, int]], trial: int) -> int | None:
        """Puts a trial where it belongs and returns its rank from 1; None without a metric."""
        metric = self.metrics[trial]
        if metric is None:
            return None
        key = (self._sign * metric, trial)
        index = bisect.bisect(ranked, key)
        ranked.insert(index, key)
        return index + 1

    def _enter(self, trial: int) -> Entry:
        rank = self._rank(self._ranked, trial)
        num_entries = len(self.entries) + 1
        quota = 0 if self._is_last else self._method.quota(num_entries)
        if rank is not None:
            self._ranks[trial] = (rank, num_entries, quota)
        best = [other for _, other in self._ranked[:quota]]
        if self._method.type != PROMOTION:
            best = [trial] if trial in best else []
        goes_on = tuple(other for other in best if other not in self._gone)
        self._gone.update(goes_on)
        return Entry(trial, self.metrics[trial], rank, quota, goes_on)

    def _close(self) -> tuple[int, ...]:
        """The best one goes on if the quota has let nobody: a sweep trains one trial to the end."""
        if self._is_last or self._gone or not self._ranked:
            return ()
        best = self._ranked[0][1]
        self._gone.add(best)
        return (best,)
