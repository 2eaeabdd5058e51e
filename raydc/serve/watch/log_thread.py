"""A thread of the replica that writes logs, so that no request waits for a disk."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger("ray.serve")

# A few seconds of the busiest replica that was measured.
_MAX_WAITING_REQUESTS = 32768
_CLOSE_TIMEOUT_S = 5.0


class LogThread:
    """Runs jobs one after the other; drops and counts jobs when too many wait.

    `logging.handlers.QueueHandler` with a `QueueListener` costs the event loop 24 us a request and
    this 0.06 us, of the 184 us of CPU that a short request takes: more than a tenth. The listener
    also waits for its thread without a timeout when it stops.

    Args:
        max_waiting_requests: Requests whose jobs may wait.
    """

    def __init__(self, max_waiting_requests: int = _MAX_WAITING_REQUESTS) -> None:
        self.num_dropped = 0
        """Requests whose jobs were dropped."""
        self._max_waiting_requests = max_waiting_requests
        # Two counters instead of one with a lock: each has a single writer, the event loop the
        # first and the thread the second.
        self._num_submitted = self._num_done = 0
        self._jobs: queue.SimpleQueue[tuple[int, Callable[[], None]] | None] = queue.SimpleQueue()
        # A daemon, so that a disk that hangs does not keep the replica alive.
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None], num_requests: int = 0) -> None:
        """Hands over a job from the event loop; never waits and never raises.

        Args:
            job: Called in the thread.
            num_requests: Requests that the job logs. A job for none is never dropped.
        """
        num_waiting = self._num_submitted - self._num_done
        if num_requests and num_waiting + num_requests > self._max_waiting_requests:
            self.num_dropped += num_requests
            return
        self._num_submitted += num_requests
        self._jobs.put((num_requests, job))

    def close(self) -> None:
        """Runs the jobs that wait, for a few seconds at most, and ends the thread."""
        self._jobs.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            num_requests, job = item
            try:
                job()
            except Exception:  # The thread must survive, or nothing would be logged any more.
                logger.exception("requests could not be logged")
            self._num_done += num_requests
