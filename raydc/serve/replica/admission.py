"""Admission control of a replica: how many requests it holds, and how many of those it computes.

A request passes two levels. `AdmissionQueue.admit` lets it in, which allows it to read its body;
`Slot.start_computing` waits for its turn to be computed; `Slot.release` gives back both.
"""

from __future__ import annotations

import asyncio

from raydc.serve.protocol.interface import RequestError

_RETRY_AFTER_S = 1
# Bodies that may arrive while every turn to compute is taken and the queue is full: a slow sender
# must not keep a fast one from reading ahead.
_SPARE_BODIES = 16


class AdmissionQueue:
    """Limits of one replica. Belongs to one event loop.

    Two `asyncio.Semaphore` cost a request 6 us of CPU, a hand-written queue 2 us: within one or two
    per cent of a short request, so the standard library does it.
    """

    def __init__(self) -> None:
        self._bodies = _Level()
        self._computing = _Level()
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

        With an unlimited queue this waits until there is room for the body.

        Returns:
            The slot of the request, which must be released.

        Raises:
            RequestError: 429 if the queue or the room for bodies is full.
        """
        if self._max_queued >= 0:
            self.check_queue()
            if self._bodies.is_full:
                raise _refusal("too many requests are being read")
        await self._bodies.acquire()
        return Slot(self, self._bodies, self._computing)

    def check_queue(self) -> None:
        """Raises RequestError 429 if a request would have to wait and the queue is full."""
        num_waiting = self._computing.num_waiting
        if 0 <= self._max_queued <= num_waiting and self._computing.is_full:
            raise _refusal(f"{num_waiting} requests are waiting already")


class Slot:
    """An admitted request. `release` must be called once.

    Args:
        queue: The queue that admitted it.
        bodies: Level that the request holds.
        computing: Level that `start_computing` acquires.
    """

    __slots__ = ("_bodies", "_computing", "_is_computing", "_queue")

    def __init__(self, queue: AdmissionQueue, bodies: _Level, computing: _Level) -> None:
        self._queue = queue
        self._bodies = bodies
        self._computing = computing
        self._is_computing = False

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
    """A semaphore whose limit can change, with counts of who holds it and who waits for it."""

    def __init__(self) -> None:
        self.num_held = 0
        self.num_waiting = 0
        self._limit = 0
        self._semaphore = asyncio.Semaphore(0)

    @property
    def is_full(self) -> bool:
        return self._semaphore.locked()

    def resize(self, limit: int) -> None:
        # A semaphore has a fixed size, so there is a new one. Requests that wait at the old one
        # wake up and wait at the new one, in the same order.
        old, self._semaphore = self._semaphore, asyncio.Semaphore(max(0, limit - self.num_held))
        self._limit = limit
        for _ in range(self.num_waiting):
            old.release()

    async def acquire(self) -> None:
        self.num_waiting += 1
        try:
            while True:
                semaphore = self._semaphore
                await semaphore.acquire()
                # A permit of a semaphore that `resize` has replaced meanwhile is void.
                if semaphore is self._semaphore:
                    break
        finally:
            self.num_waiting -= 1
        self.num_held += 1

    def release(self) -> None:
        self.num_held -= 1
        # After the limit was reduced, too many may be inside; their places are not given away.
        if self.num_held < self._limit:
            self._semaphore.release()


def _refusal(reason: str) -> RequestError:
    return RequestError(429, f"{reason}; try again", {"retry-after": str(_RETRY_AFTER_S)})
