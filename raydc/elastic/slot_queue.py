"""Gives the slots of a cluster to the trials of a sweep, and idle ones to trials that run.

Runs in the driver. A slot has room for one worker. Trials come first: a worker that has joined one
leaves again as soon as another trial may run. To Tune such a helper is a trial of its own, in an
actor that it uses again; the helper goes from one trial to the next. Whoever joins changes no
result, so this may use clocks; `trial_queue` decides what runs, and never sees who trains it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raydc.elastic.crews import Standing
from raydc.elastic.join_gain import RunningTrial, choose_joins
from raydc.elastic.slot_helpers import CrewBox, SlotHelpers
from raydc.elastic.sweep_table import SweepStanding
from raydc.elastic.trial_queue import TrialQueue
from raydc.errors import Say
from raydc.plan import CrewSize

# How often the trials are asked how much they have left to do.
_LOOK_EVERY_S = 0.5
# Helpers that one trial may lose before no more join it.
_MOST_LOSSES = 3
# A helper without a trial keeps its slot for so long: its process has imported everything.
_IDLE_S = 10.0
# How long the end of a sweep waits for its helpers, which take a tenth of a second.
_END_S = 5.0
# A trial that waits for so long, though there should be room for it soon, gets a helper's slot:
# other jobs may have the rest of them, or whoever should leave hangs.
_WAIT_S = 20.0


class SlotQueue:
    """What Tune runs next: a part of a trial, or a helper that joins one.

    Args:
        queue: Says which trials may run.
        size: Workers of a trial.
        num_slots: Counts the workers that the cluster has room for, those that run included.
        box: Knows the helpers.
        most_trials: Most trials at a time; None for as many as there is room for.
        report: Shows a line of progress.
        now_s: A monotonic clock.
    """

    def __init__(
        self,
        queue: TrialQueue,
        size: CrewSize,
        num_slots: Callable[[], int],
        box: CrewBox,
        most_trials: int | None,
        report: Say,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._size, self._num_slots = queue, size, num_slots
        self._box, self._most_trials, self._report = box, most_trials, report
        self._now_s = now_s
        self._helpers = SlotHelpers(box, now_s)
        # Segments that Tune has, by the key of the trial; those that have got a slot are started.
        self._trials: dict[str, dict[str, Any]] = {}
        self._started: set[str] = set()
        # Helpers that were decided on with others, and are not with Tune yet.
        self._planned: list[dict[str, Any]] = []
        self._losses: Counter[str] = Counter()
        self._looked_s = -_LOOK_EVERY_S
        # Since when a trial waits for a slot, or for the next helper to leave.
        self._waits_since_s: float | None = None
        self._over_s: float | None = None
        self._standing: tuple[float, dict[str, Standing]] = (0.0, {})

    @property
    def is_over(self) -> bool:
        """Whether nothing can run any more."""
        return self._queue.is_over

    def is_held_up(self) -> bool:
        """Whether helpers hang, of a sweep that is over: nobody has to wait for them."""
        # Asked ten times a second; what the queue says takes longest.
        if not len(self._helpers) or self._trials or not self._queue.is_over:
            self._over_s = None
            return False
        self._over_s = self._over_s or self._now_s()
        return self._now_s() - self._over_s > _END_S

    def next_segment(self) -> dict[str, Any] | None:
        """What Tune runs next, as `trial_worker` takes it; None if nothing may run now."""
        if self._may_begin() and (segment := self._queue.next_segment()) is not None:
            segment |= {"least": self._size.least, "most": self._size.most}
            self._trials[segment["key"]] = segment
            self._planned.clear()
            self._make_room()
            return segment
        if self._size.most == self._size.least:
            return None
        self._helpers.remind()
        # Other jobs may need what helpers hold without a trial.
        self._helpers.release_idle(0.0 if self._queue.is_over else _IDLE_S)
        # A trial that waits for a slot comes before those that help.
        if self._trials.keys() > self._started:
            self._make_room()
            return None
        self._waits_since_s = None
        return self._next_helper()

    def _may_begin(self) -> bool:
        if self._most_trials is not None:
            return len(self._trials) < self._most_trials
        # One may wait for a slot, so that a cluster that can grow does.
        return self._trials.keys() <= self._started

    def _next_helper(self) -> dict[str, Any] | None:
        if not self._planned and self._look():
            self._planned = self._plan()
        while self._planned:
            task = self._planned.pop(0)
            if task["key"] not in self._trials:
                continue
            if idle := self._helpers.idle():
                self._helpers.assign(idle[0], task)
            elif self._num_used() < self._num_slots():
                return {"helper": self._helpers.add(task["key"]), "task": task}
        return None

    def _num_used(self) -> int:
        return len(self._trials) * self._size.least + len(self._helpers)

    def _look(self) -> bool:
        """Asks the mailbox, not more than twice a second; returns whether it was asked."""
        if self._now_s() - self._looked_s < _LOOK_EVERY_S or not self._trials:
            return False
        self._looked_s = self._now_s()
        join_s, trials, idle = self._box.standing()
        self._standing = join_s, trials
        # The trials of these go on without them.
        self._helpers.free(idle)
        return True

    def _plan(self) -> list[dict[str, Any]]:
        """What helpers in idle slots should do: join the trials that are done last."""
        free = self._num_slots() - self._num_used() + len(self._helpers.idle())
        join_s, standing = self._standing
        running = []
        for key in self._trials:
            one, num_helpers = standing.get(key), len(self._helpers.of(key))
            # A trial whose workers change now says next how long it takes with them.
            is_settled = one is not None and len(one.members) == self._size.least - 1 + num_helpers
            if one is None or one.left_s is None or not is_settled:
                continue
            if self._losses[key] < _MOST_LOSSES:
                running.append(RunningTrial(key, one.left_s, self._size.least + num_helpers))
        found = choose_joins(running, max(0, free), self._size.most, self._size.shards, join_s)
        return [
            self._make_task(key, workers)
            for key, workers in found.items()
            for _ in range(workers - self._size.least - len(self._helpers.of(key)))
        ]

    def _make_task(self, key: str, workers: int) -> dict[str, Any]:
        fields = {name: self._trials[key][name] for name in ("key", "all_values", "epochs")}
        return {**fields, "size": workers}

    def _make_room(self) -> None:
        """Sends helpers away whose slots a trial waits for."""
        staying = self._helpers.staying()
        if not staying:
            return
        num_leaving = len(self._helpers) - len(staying)
        excess = self._num_used() - self._num_slots() - num_leaving
        if is_late := self._has_waited():
            # Those that were to leave may hang.
            excess = max(excess + num_leaving, self._size.least)
        if excess <= 0:
            return
        self._look()
        join_s, standing = self._standing

        def rank(name: str) -> tuple[bool, float, int]:
            one = standing.get(self._helpers.key_of(name) or "", Standing(None, ()))
            # It costs nothing to send away who does not train yet, or trains no more.
            left_s = float("inf") if one.left_s is None else one.left_s
            return name in one.members, left_s, -staying.index(name)

        # Of those that train, the trial that is done first loses least; the last to come goes.
        chosen = sorted(staying, key=rank)[:excess]
        # Who is done sooner than a change of workers takes is free by itself, unless it hangs.
        self._helpers.release(
            [name for name in chosen if is_late or not rank(name)[0] or rank(name)[1] >= join_s]
        )

    def _has_waited(self) -> bool:
        """Whether a trial has waited for long, since it came or since a helper has left for it."""
        now_s = self._now_s()
        if self._waits_since_s is None:
            self._waits_since_s = now_s
        if now_s - self._waits_since_s < _WAIT_S:
            return False
        self._waits_since_s = now_s
        return True

    def start(self, segment: dict[str, Any]) -> None:
        """Notes that a segment has got its slot.

        Args:
            segment: As `next_segment` gave it.
        """
        if "helper" not in segment:
            self._started.add(segment["key"])

    def end(self, segment: dict[str, Any]) -> None:
        """Takes the result of a segment from the records of its trial; a helper has none.

        Args:
            segment: As `next_segment` gave it.
        """
        if "helper" in segment:
            self._helpers.remove(segment["helper"])
            return
        self._forget_trial(segment["key"])
        self._queue.end(segment)

    def lose(self, segment: dict[str, Any], error: str) -> None:
        """Notes that a segment was lost as often as it is tried.

        Args:
            segment: As `next_segment` gave it.
            error: Text of the error.
        """
        if "helper" in segment:
            self._lose_helper(segment["helper"])
            self._helpers.remove(segment["helper"])
            return
        # Its leader cannot tell them that it is over.
        self._helpers.release(self._helpers.of(segment["key"]))
        self._forget_trial(segment["key"])
        self._queue.lose(segment, error)

    def retry(self, segment: dict[str, Any], error: str) -> None:
        """Says that a segment was lost with its process and is tried again.

        Args:
            segment: As `next_segment` gave it.
            error: Text of the error.
        """
        if "helper" in segment:
            self._lose_helper(segment["helper"])
            return
        self._started.discard(segment["key"])
        # It may need their slots to start again.
        self._helpers.release(self._helpers.of(segment["key"]))
        self._queue.retry(segment, error)

    def _forget_trial(self, key: str) -> None:
        self._trials.pop(key, None)
        self._started.discard(key)
        self._helpers.free(self._helpers.of(key))

    def _lose_helper(self, name: str) -> None:
        self._box.withdraw(name)
        if name not in self._helpers.staying():
            return
        # What Tune starts in its place ends at once; another one may join.
        self._helpers.release([name])
        key = self._helpers.key_of(name)
        if key is not None and key in self._trials:
            self._losses[key] += 1
            number = self._trials[key]["number"]
            self._report(f"sweep     trial {number} has lost a worker that had joined, and goes on")

    def standing(self) -> SweepStanding:
        """How the sweep stands, for its live table."""
        standing = self._queue.standing()
        workers = {
            one["number"]: self._size.least + len(self._helpers.of(key))
            for key, one in self._trials.items()
        }
        return replace(
            standing,
            trials=[
                replace(one, why=f"{one.why}, {workers[one.number]} workers")
                if workers.get(one.number, 1) > 1
                else one
                for one in standing.trials
            ],
        )

    def raise_failed(self) -> None:
        """As `TrialQueue.raise_failed`."""
        self._queue.raise_failed()
