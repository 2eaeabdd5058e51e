"""What is known of each answered request, and a thread that logs it beside the requests."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger("ray.serve")

# Some seconds of the busiest replica that was measured.
_MAX_WAITING = 32768
_CLOSE_TIMEOUT_S = 5.0


class LogThread:
    """Does what may take its time, one after the other, in a thread."""

    def __init__(self) -> None:
        self.num_dropped = 0
        # One is written by the event loop, the other by the thread.
        self._num_given = self._num_done = 0
        self._work: queue.SimpleQueue[tuple[int, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None], num_requests: int = 0) -> None:
        """For the event loop: never waits, never raises.

        Args:
            work: What is to be done.
            num_requests: Requests that it is done for. Where too many wait already, they are dropped and counted.
        """
        if num_requests and self._num_given - self._num_done + num_requests > _MAX_WAITING:
            self.num_dropped += num_requests
            return
        self._num_given += num_requests
        self._work.put((num_requests, work))

    def close(self) -> None:
        """Does what is left, and ends."""
        self._work.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            num_requests, work = item
            try:
                work()
            except Exception:  # Watching goes on, and answering does in any case.
                logger.exception("requests could not be logged")
            self._num_done += num_requests
