"""How many requests a replica takes at once: those whose bodies it holds, and of them those that are computed."""

from __future__ import annotations

import asyncio

from raydc.serve.interface import RequestError

_RETRY_AFTER_S = 1
# Requests whose bodies may come in while all places are taken, and as many wait as may.
_SPARE = 16


class Places:
    """Limits of one replica. Belongs to one event loop."""

    def __init__(self) -> None:
        self.num_waiting = 0
        """Requests that wait for a place to be computed."""
        self.num_in_work = 0
        """Requests that have one."""
        self.resize(1, 0)

    def resize(self, num_ongoing: int, max_queued: int) -> None:
        """Sets limits for requests to come.

        Args:
            num_ongoing: Requests that are computed at once.
            max_queued: Requests that may wait for that; -1: any number.
        """
        self._max_queued = max_queued
        self._slots = asyncio.Semaphore(num_ongoing)
        # A body is read before a place is taken, so that a slow sender holds up nobody. But bodies take memory.
        self._room = asyncio.Semaphore(num_ongoing + max(0, max_queued) + _SPARE)

    async def arrive(self) -> Visit:
        """Lets a request in, before its body is read.

        Raises:
            RequestError: 429 when as many are inside already, or wait for a place, as may.
        """
        if self._max_queued >= 0:
            self._check_queue()
            if self._room.locked():
                raise _full("too many requests are being read")
        room = self._room
        await room.acquire()
        return Visit(self, room)

    async def take(self) -> asyncio.Semaphore:
        """One of the places to be computed, to be released. Raises RequestError as `arrive`."""
        self._check_queue()
        slots = self._slots
        if slots.locked():
            self.num_waiting += 1
            try:
                await slots.acquire()
            finally:
                self.num_waiting -= 1
        else:
            await slots.acquire()
        return slots

    def _check_queue(self) -> None:
        if self._slots.locked() and 0 <= self._max_queued <= self.num_waiting:
            raise _full(f"{self.num_waiting} requests wait already")


class Visit:
    """A request that has been let in. `leave` must be called."""

    __slots__ = ("_places", "_room", "_slots")

    def __init__(self, places: Places, room: asyncio.Semaphore) -> None:
        self._places = places
        self._room = room
        self._slots: asyncio.Semaphore | None = None

    async def enter(self) -> None:
        """Waits for a place to be computed. Raises RequestError as `Places.arrive`."""
        self._slots = await self._places.take()
        self._places.num_in_work += 1

    def leave(self) -> None:
        """Gives back what it has."""
        if self._slots is not None:
            self._places.num_in_work -= 1
            self._slots.release()
        self._room.release()


def _full(what: str) -> RequestError:
    return RequestError(429, f"{what}; try again", {"retry-after": str(_RETRY_AFTER_S)})
