"""Admission control of a replica: how many requests it holds, and how many of those it computes.

A request passes two levels. `AdmissionQueue.admit` lets it in, which allows it to read its body;
`Slot.read` reads it; `Slot.start_computing` waits for its turn to be computed; `Slot.release` gives
back both.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from raydc.serve.protocol.interface import RequestError

_RETRY_AFTER_S = 1
# Bodies that may arrive while every turn to compute is taken and the queue is full: a slow sender
# must not keep a fast one from reading ahead.
_SPARE_BODIES = 16
# Added to the bytes of each body when their rates are compared: what has just begun is not slow.
_CREDIT_BYTES = 16 * 1024
# The slowest of the oldest is looked for: comparing all would take longer than some requests.
_NUM_COMPARED = 64


class Incoming(Protocol):
    """A request whose body arrives."""

    num_read: int
    """Bytes of it that have arrived."""

    async def read(self, max_bytes: int) -> bytes:
        """Reads all of it, and refuses what is larger."""


class AdmissionQueue:
    """Limits of one replica. Belongs to one event loop.

    Not two `asyncio.Semaphore`, because their size is fixed and these limits change.
    """

    def __init__(self) -> None:
        self._bodies = _Level()
        self._computing = _Level()
        # In the order in which they have begun.
        self._reading: dict[Slot, None] = {}
        self.resize(1, 0)

    @property
    def num_in_work(self) -> int:
        """Requests that are being computed."""
        return self._computing.num_held

    @property
    def num_waiting(self) -> int:
        """Requests that wait to be computed."""
        return self._computing.num_waiting

    @property
    def num_inside(self) -> int:
        """Requests that have been admitted and not released."""
        return self._bodies.num_held

    def resize(self, num_ongoing: int, max_queued: int) -> None:
        """Sets the limits; requests that are inside stay, even if there are now too many.

        Args:
            num_ongoing: Requests that are computed at once.
            max_queued: Requests that may wait to be computed; -1 means any number.
        """
        self._max_queued = max_queued
        self._computing.resize(num_ongoing)
        # Each body takes memory, so even an unlimited queue does not read all of them.
        self._bodies.resize(num_ongoing + max(0, max_queued) + _SPARE_BODIES)

    async def admit(self) -> Slot:
        """Lets a request in, before its body is read.

        If the room for bodies is full, the one that arrives most slowly makes way: clients that
        dribble theirs must not keep all others out. With an unlimited queue this waits until there
        is room.

        Returns:
            The slot of the request, which must be released.

        Raises:
            RequestError: 429 if the queue is full, or the room for bodies with such as have
                arrived.
        """
        self.check_queue()
        if self._bodies.is_full and not self._end_slowest() and self._max_queued >= 0:
            raise _refusal("too many requests are being read")
        await self._bodies.acquire()
        return Slot(self, self._bodies, self._computing, self._reading)

    def check_queue(self) -> None:
        """Raises RequestError 429 if a request would have to wait and the queue is full."""
        num_waiting = self._computing.num_waiting
        if 0 <= self._max_queued <= num_waiting and self._computing.is_full:
            raise _refusal(f"{num_waiting} requests are waiting already")

    def _end_slowest(self) -> bool:
        """Ends the reading of one body; False if none is being read."""
        now_s = asyncio.get_running_loop().time()
        oldest = itertools.islice(self._reading, _NUM_COMPARED)
        slowest = min(oldest, key=lambda slot: slot.rate(now_s), default=None)
        if slowest is None:
            return False
        del self._reading[slowest]
        slowest.end_reading()
        return True


class Slot:
    """An admitted request. `release` must be called once.

    Args:
        queue: The queue that admitted it.
        bodies: Level that the request holds.
        computing: Level that `start_computing` acquires.
        reading: Slots whose bodies are being read; those that `read` keeps in it can be ended.
    """

    __slots__ = (
        "_began_s",
        "_bodies",
        "_computing",
        "_incoming",
        "_is_computing",
        "_is_ended",
        "_queue",
        "_reading",
        "_task",
    )

    def __init__(
        self, queue: AdmissionQueue, bodies: _Level, computing: _Level, reading: dict[Slot, None]
    ) -> None:
        self._queue = queue
        self._bodies = bodies
        self._computing = computing
        self._reading = reading
        self._is_computing = self._is_ended = False
        self._task: asyncio.Task[Any] | None = None

    async def read(self, incoming: Incoming, max_bytes: int) -> bytes:
        """Reads the body of the request.

        Raises:
            RequestError: The body is refused; 408 if it made way for another one.
        """
        self._incoming = incoming
        self._began_s = asyncio.get_running_loop().time()
        self._task = task = asyncio.current_task()
        self._reading[self] = None
        try:
            return await incoming.read(max_bytes)
        except asyncio.CancelledError:
            # Something else may have cancelled the request as well, such as its own time limit.
            if not self._is_ended or task is None or task.uncancel() > 0:
                raise
            raise RequestError(
                408,
                "the body arrives too slowly while others wait; try again",
                {"retry-after": str(_RETRY_AFTER_S)},
            ) from None
        finally:
            self._reading.pop(self, None)

    def rate(self, now_s: float) -> float:
        """Bytes of the body for each second since it is being read."""
        seconds = max(1e-3, now_s - self._began_s)
        return (self._incoming.num_read + _CREDIT_BYTES) / seconds

    def end_reading(self) -> None:
        """Lets `read` fail. Called while it waits for a part of the body."""
        self._is_ended = True
        if self._task is not None:
            self._task.cancel()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Holds no place inside the block, while a request waits for something but its turn.

        Its body has been read. It takes a place again behind the block, even if that is one too
        many; who waits in so many blocks has to be limited elsewhere.
        """
        self._bodies.release()
        try:
            yield
        finally:
            self._bodies.take()

    async def start_computing(self) -> None:
        """Waits for the request's turn to be computed.

        Raises:
            RequestError: 429 if the queue has filled up since the request was admitted.
        """
        self._queue.check_queue()
        await self._computing.acquire()
        self._is_computing = True

    def release(self) -> None:
        """Ends the request, so that the next one in the queue may start."""
        if self._is_computing:
            self._computing.release()
        self._bodies.release()


class _Level:
    """Places for a number of requests that can change; further ones wait in their order."""

    def __init__(self) -> None:
        self.num_held = 0
        self._limit = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return self.num_held >= self._limit

    def resize(self, limit: int) -> None:
        self._limit = limit
        self._hand_over()

    async def acquire(self) -> None:
        # Nobody waits then: `_hand_over` gives each free place away at once.
        if not self.is_full:
            self.num_held += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Otherwise the place was handed over in the same round of the loop.
            if turn.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            else:
                self.release()
            raise

    def take(self) -> None:
        self.num_held += 1

    def release(self) -> None:
        self.num_held -= 1
        self._hand_over()

    def _hand_over(self) -> None:
        while self._waiting and not self.is_full:
            turn = self._waiting.popleft()
            # A request that is cancelled leaves the queue in the next round of the loop.
            if not turn.cancelled():
                self.num_held += 1
                turn.set_result(None)


def _refusal(reason: str) -> RequestError:
    return RequestError(429, f"{reason}; try again", {"retry-after": str(_RETRY_AFTER_S)})
