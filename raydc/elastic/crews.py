"""Workers that join running trials of a sweep: who waits, who trains with whom, who is sent away.

Pure; it is state of the mailbox of a sweep (`raydc.elastic.mailbox`). The leader of a trial is the
worker that the trial began with. A helper offers itself, waits, is called into a group, trains, and
offers itself again after each planned stop, until it is released or the trial ends. Then it takes
its next task.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydc.loop.planned_stop import GROW, SHRINK

# What a helper is told that is needed no more.
LEAVE = "leave"
# A helper asks ten times a second. One that has not asked for so long is not waited for.
_SILENT_S = 2.0
# How long those who wait are kept waiting for others that were announced with them.
_PATIENCE_S = 4.0
# Groups that one trial may lose. More say that its workers cannot train together.
_MOST_LOST = 5
# Seconds that a trial stands still when its workers change, before it was measured.
_FIRST_JOIN_S = 1.5
_NUM_MEASURED = 8


@dataclass(frozen=True)
class Standing:
    """How a trial stands that may get more workers.

    Attributes:
        left_s: Seconds of work until its segment ends, with the workers that it has; None if it
            has not said so yet, or takes no more helpers.
        members: Helpers that train with its leader.
    """

    left_s: float | None
    members: tuple[str, ...]


@dataclass
class _Crew:
    """The helpers of one trial."""

    # When each helper that waits has come, and when it has asked last.
    came_s: dict[str, float] = field(default_factory=dict)
    asked_s: dict[str, float] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)
    # Helpers that the trial began with. They come back however many groups were lost.
    needed: frozenset[str] = frozenset()
    size: int = 0
    num_lost: int = 0
    place: dict[str, Any] | None = None
    left_s: float | None = None
    told_s: float = 0.0


class Crews:
    """The helpers of all trials of a sweep.

    Args:
        now_s: A monotonic clock.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._crews: dict[str, _Crew] = {}
        self._released: set[str] = set()
        self._tasks: dict[str, dict[str, Any]] = {}
        # Those who have asked for a task since they got the last one.
        self._idle: set[str] = set()
        self._join_s: deque[float] = deque(maxlen=_NUM_MEASURED)

    def begin(self, trial: str) -> None:
        """Notes that the leader of a trial has started; helpers of an earlier one do not count."""
        self._crews[trial] = _Crew()

    def end(self, trial: str) -> None:
        """Notes that a trial needs nobody any more."""
        self._crews.pop(trial, None)

    def assign(self, helper: str, task: dict[str, Any]) -> None:
        """Notes what a helper does next.

        Args:
            helper: Name of the helper, which no other one has.
            task: What it takes: `key`, `all_values` and `epochs` of a trial, and `size`.
        """
        self._tasks[helper] = task
        self._idle.discard(helper)

    def take_task(self, helper: str) -> dict[str, Any] | str | None:
        """What a helper does next: a task, once; LEAVE; or None to ask again."""
        task = LEAVE if helper in self._released else self._tasks.pop(helper, None)
        if task is None:
            self._idle.add(helper)
        else:
            self._idle.discard(helper)
        return task

    def need(self, trial: str, helpers: Sequence[str]) -> None:
        """Notes the helpers without which a trial does not train."""
        if (crew := self._crews.get(trial)) is not None:
            crew.needed = frozenset(helpers)

    def offer(self, trial: str, helper: str, size: int) -> bool:
        """Takes the offer of a helper to train.

        Args:
            trial: Key of the trial.
            helper: Name of the helper, which no other one has.
            size: Workers that the trial is to have; its leader waits a moment for all of them.

        Returns:
            Whether the helper shall wait for a call; otherwise it is not needed.
        """
        crew = self._crews.get(trial)
        if crew is None or not self._is_welcome(crew, helper):
            return False
        crew.came_s.setdefault(helper, self._now_s())
        crew.asked_s[helper] = self._now_s()
        crew.size = max(crew.size, size)
        return True

    def call(self, trial: str, helper: str) -> dict[str, Any] | str | None:
        """What a helper that waits is told.

        Returns:
            Where the group meets, with `host`, `port`, `size` and the helper's own `rank`; LEAVE
            if it is not needed; None if it shall ask again.
        """
        crew = self._crews.get(trial)
        if crew is None:
            return LEAVE
        if helper in crew.came_s:
            if not self._is_welcome(crew, helper):
                self.withdraw(helper)
                return LEAVE
            crew.asked_s[helper] = self._now_s()
            return None
        if crew.place is None or helper not in crew.members:
            # The leader has started again since.
            return LEAVE
        return {**crew.place, "rank": 1 + crew.members.index(helper)}

    def release(self, helpers: Iterable[str]) -> None:
        """Sends helpers away, as soon as the leaders of their trials have stopped for that."""
        self._released |= {*helpers}

    def withdraw(self, helper: str) -> None:
        """Forgets a helper that waits: its process is gone, or it was released."""
        for crew in self._crews.values():
            crew.came_s.pop(helper, None)

    def wish(self, trial: str) -> str | None:
        """Why the leader of a trial should stop for a change of its workers; None if it should not.

        Returns:
            GROW, SHRINK or None.
        """
        crew = self._crews.get(trial)
        if crew is None:
            return None
        if any(member in self._released for member in crew.members):
            return SHRINK
        waiting = self._ready(crew)
        if not waiting:
            return None
        is_complete = 1 + len(crew.members) + len(waiting) >= crew.size
        first_s = min(crew.came_s[helper] for helper in waiting)
        return GROW if is_complete or self._now_s() - first_s > _PATIENCE_S else None

    def is_mustered(self, trial: str, needed: Sequence[str] = ()) -> bool:
        """Whether those who stay are back after a planned stop, and some other helpers are there.

        Args:
            trial: Key of the trial.
            needed: Helpers without which the trial does not train.
        """
        crew = self._crews.get(trial)
        if crew is None:
            return not needed
        staying = [member for member in crew.members if self._is_welcome(crew, member)]
        ready = self._ready(crew)
        return all(one in crew.came_s for one in staying) and all(one in ready for one in needed)

    def form(self, trial: str, host: str, port: int) -> list[str]:
        """Calls the helpers that wait into a group.

        Args:
            trial: Key of the trial.
            host: Address at which its leader listens.
            port: Port there.

        Returns:
            The helpers that are called, in the order of their ranks, from 1.
        """
        crew = self._crews.get(trial)
        if crew is None:
            return []
        # Those who were there keep their places.
        ready = self._ready(crew)
        crew.members = sorted(ready, key=lambda one: (one not in crew.members, crew.came_s[one]))
        for member in crew.members:
            del crew.came_s[member]
        crew.size = 0
        crew.place = {"host": host, "port": port, "size": 1 + len(crew.members)}
        # What was left to do was told by a group of another size.
        crew.left_s = None
        return list(crew.members)

    def disband(self, trial: str) -> None:
        """Notes that a group is no more, because one of its workers was lost."""
        if (crew := self._crews.get(trial)) is not None:
            crew.members, crew.place, crew.left_s = [], None, None
            crew.num_lost += 1

    def close(self, trial: str) -> None:
        """Notes that only the helpers that a trial began with train with it from now on."""
        self.disband(trial)
        if (crew := self._crews.get(trial)) is not None:
            crew.num_lost = _MOST_LOST

    def tell_left(self, trial: str, left_s: float) -> None:
        """Notes how many seconds of work a trial has until its segment ends."""
        if (crew := self._crews.get(trial)) is not None:
            crew.left_s, crew.told_s = left_s, self._now_s()

    def tell_join(self, seconds: float) -> None:
        """Notes for how long a trial has stood still because its workers changed."""
        self._join_s.append(seconds)

    def standing(self) -> tuple[float, dict[str, Standing], list[str]]:
        """How the trials and their helpers stand.

        Returns:
            Seconds that a change of workers costs, how each trial stands that trains, and the
            helpers that ask for a task.
        """
        measured = self._join_s
        join_s = sum(measured) / len(measured) if measured else _FIRST_JOIN_S
        trials = {key: self._stands(crew) for key, crew in self._crews.items()}
        return join_s, trials, sorted(self._idle)

    def _stands(self, crew: _Crew) -> Standing:
        left_s = crew.left_s
        if left_s is not None:
            left_s = max(0.0, left_s - (self._now_s() - crew.told_s))
        if crew.num_lost >= _MOST_LOST:
            left_s = None
        return Standing(left_s, tuple(crew.members))

    def _ready(self, crew: _Crew) -> list[str]:
        """The helpers that wait and may join, and whose processes are there."""
        since_s = self._now_s() - _SILENT_S
        return [
            helper
            for helper in crew.came_s
            if self._is_welcome(crew, helper) and crew.asked_s[helper] >= since_s
        ]

    def _is_welcome(self, crew: _Crew, helper: str) -> bool:
        is_open = crew.num_lost < _MOST_LOST or helper in crew.needed
        return is_open and helper not in self._released
