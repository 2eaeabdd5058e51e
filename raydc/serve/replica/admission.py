"""How many requests a replica takes at once: those whose bodies it holds, and of them those that are computed."""

from __future__ import annotations

import asyncio
from collections import deque

from raydc.serve.protocol.interface import RequestError

_RETRY_AFTER_S = 1
# Requests whose bodies may come in while all places are taken, and as many wait as may.
_SPARE = 16


class AdmissionQueue:
    """Limits of one replica. Belongs to one event loop.

    `asyncio.Semaphore` would do the same; it costs a short request a tenth of its time with one client.
    """

    def __init__(self) -> None:
        self.num_in_work = 0
        """Requests that have a place to be computed."""
        self._num_inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._outside: deque[asyncio.Future[None]] = deque()
        self.resize(1, 0)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place to be computed."""
        return len(self._waiting)

    def resize(self, num_ongoing: int, max_queued: int) -> None:
        """Sets the limits.

        Args:
            num_ongoing: Requests that are computed at once.
            max_queued: Requests that may wait for that; -1: any number.
        """
        self._num_ongoing = num_ongoing
        self._max_queued = max_queued
        # A body is read before a place is taken, so that a slow sender holds up nobody. But bodies take memory.
        self._num_room = num_ongoing + max(0, max_queued) + _SPARE
        self._let_in()

    async def admit(self) -> Slot:
        """Lets a request in, before its body is read.

        Raises:
            RequestError: 429 when as many are inside already, or wait for a place, as may.
        """
        if self._max_queued >= 0:
            self._check_queue()
            if self._num_inside >= self._num_room:
                raise _full("too many requests are being read")
        elif self._num_inside >= self._num_room or self._outside:
            await self._wait(self._outside)
            return Slot(self)
        self._num_inside += 1
        return Slot(self)

    async def enter(self) -> None:
        """Takes one of the places to be computed, or waits for it. Raises RequestError as `admit`."""
        if self.num_in_work < self._num_ongoing and not self._waiting:
            self.num_in_work += 1
            return
        self._check_queue()
        await self._wait(self._waiting)

    def leave(self, has_entered: bool) -> None:
        """Gives back what `admit` gave, and `enter`."""
        self._num_inside -= 1
        self.num_in_work -= has_entered
        self._let_in()

    def _check_queue(self) -> None:
        if self.num_in_work >= self._num_ongoing and 0 <= self._max_queued <= len(self._waiting):
            raise _full(f"{len(self._waiting)} requests wait already")

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # Its turn had come all the same.
                if queue is self._waiting:
                    self.num_in_work -= 1
                else:
                    self._num_inside -= 1
                self._let_in()
            elif turn in queue:
                queue.remove(turn)
            raise

    def _let_in(self) -> None:
        """Gives what is free to those who came first."""
        while self._waiting and self.num_in_work < self._num_ongoing:
            self.num_in_work += _call(self._waiting)
        while self._outside and self._num_inside < self._num_room:
            self._num_inside += _call(self._outside)


class Slot:
    """A request that has been let in. `leave` must be called."""

    __slots__ = ("_admission", "_has_entered")

    def __init__(self, places: AdmissionQueue) -> None:
        self._admission = places
        self._has_entered = False

    async def start_computing(self) -> None:
        """Waits for a place to be computed. Raises RequestError as `AdmissionQueue.admit`."""
        await self._admission.enter()
        self._has_entered = True

    def release(self) -> None:
        """Gives back what it has."""
        self._admission.leave(self._has_entered)


def _call(queue: deque[asyncio.Future[None]]) -> int:
    """Tells who is first that it is its turn. Returns 0 where it has just been cancelled."""
    turn = queue.popleft()
    if turn.done():
        return 0
    turn.set_result(None)
    return 1


def _full(what: str) -> RequestError:
    return RequestError(429, f"{what}; try again", {"retry-after": str(_RETRY_AFTER_S)})
