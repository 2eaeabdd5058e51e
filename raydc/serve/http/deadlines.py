"""Deadlines of many requests with one timer: a timer for each costs some per cent of a short request."""

from __future__ import annotations

import asyncio
from types import TracebackType

# A deadline may be missed by this. A shorter one is good for nothing.
INTERVAL_S = 0.02


class DeadlineError(Exception):
    """The time of a request is over."""


class Deadlines:
    """Ends what takes too long. Belongs to one event loop."""

    def __init__(self) -> None:
        self._running: set[_Deadline] = set()
        self._is_looking = False

    def after(self, timeout_s: float | None) -> _Deadline:
        """A context, for `with`, whose task is interrupted after so many seconds; None: never.

        Raises:
            DeadlineError: At the end of the context, where it was interrupted.
        """
        return _Deadline(self, timeout_s)

    def add(self, deadline: _Deadline) -> None:
        self._running.add(deadline)
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(INTERVAL_S, self._look)

    def remove(self, deadline: _Deadline) -> None:
        self._running.discard(deadline)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for deadline in [one for one in self._running if one.ends_s <= now_s]:
            self._running.remove(deadline)
            deadline.interrupt()
        self._is_looking = bool(self._running)
        if self._is_looking:
            loop.call_later(INTERVAL_S, self._look)


class _Deadline:
    __slots__ = ("_deadlines", "_is_over", "_task", "_timeout_s", "ends_s")

    def __init__(self, deadlines: Deadlines, timeout_s: float | None) -> None:
        self._deadlines = deadlines
        self._timeout_s = timeout_s
        self._is_over = False

    def __enter__(self) -> None:
        if self._timeout_s is not None:
            self._task = asyncio.current_task()
            self.ends_s = asyncio.get_running_loop().time() + self._timeout_s
            self._deadlines.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._deadlines.remove(self)
        if self._is_over and self._task is not None:
            # Somebody else may want the task's end as well, and then it ends.
            others = self._task.uncancel()
            if others == 0 and kind is asyncio.CancelledError:
                raise DeadlineError from error

    def interrupt(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
