"""What is known of each answered request, logged beside the requests.

The request path appends to a bounded buffer and never waits. A thread empties it, a few at a time, so that it does not
keep the event loop from its turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

logger = logging.getLogger("ray.serve")

_INTERVAL_S = 0.25
# Taking these is less than half a millisecond; between two lots the thread sleeps, and others may run.
_LOT = 64
_PAUSE_S = 0.001
# Some seconds of the busiest replica that was measured. What comes when the buffer is full is counted, not kept.
_MAX_SEEN = 32768
_CLOSE_TIMEOUT_S = 5.0


class Seen(NamedTuple):
    """One answered request. `role` is stable, canary or shadow; `token` the name of the token; sizes are of bodies."""

    time_s: float
    request_id: str
    client: str
    forwarded_for: str
    method: str
    path: str
    status: int
    model: str
    version: str
    role: str
    rows: int
    seconds: float
    bytes_in: int
    bytes_out: int
    token: str


class Watch:
    """Gives what was seen to a function that may take its time.

    Args:
        take: Gets the requests, a few at a time, in a thread.
        regularly: Called by the thread as often as it looks, after it has taken everything.
    """

    def __init__(self, take: Callable[[Sequence[Seen]], None], regularly: Callable[[], None] = lambda: None) -> None:
        self.num_dropped = 0
        self._take = take
        self._regularly = regularly
        self._seen: deque[Seen] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def see(self, lot: Sequence[Seen]) -> None:
        """For the request path: never waits, never raises."""
        room = max(0, _MAX_SEEN - len(self._seen))
        self._seen.extend(lot[:room])
        self.num_dropped += max(0, len(lot) - room)

    def close(self) -> None:
        """Takes what is left, and ends."""
        self._stop.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._take_all()
        self._take_all()

    def _take_all(self) -> None:
        while self._seen:
            lot = [self._seen.popleft() for _ in range(min(_LOT, len(self._seen)))]
            self._guard(partial(self._take, lot))
            if not self._stop.is_set():
                time.sleep(_PAUSE_S)
        self._guard(self._regularly)

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # Watching goes on, and answering does in any case.
            logger.exception("requests could not be logged")
