"""Notices that its own process stood still: stopped, frozen or starved. A thread in each worker.

A step waits for all workers, so while one of them stands still none does useful work. Only that
worker can tell standing still from a slow step: its clock jumps between two ticks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

# A busy machine holds a thread up for less.
LEAST_S = 2.0
_TICK_S = 0.5
KIND = "stood_still"


class StandstillWatch:
    """Records each standstill of this process. A context manager.

    Args:
        rank: Rank of this worker, which the event says.
        record_event: Takes the kind and the fields of an event; None records nothing.
        wait: Sleeps up to some seconds; returns True once the watch is over.
        now_s: A monotonic clock, which does not count a suspended machine.
        unix_s: The Unix time, which events of all machines have in common.
    """

    def __init__(
        self,
        rank: int,
        record_event: Callable[..., None] | None,
        wait: Callable[[float], bool] | None = None,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._rank = rank
        self._record_event = record_event
        self._is_over = threading.Event()
        self._wait = wait or self._is_over.wait
        self._now_s = now_s
        self._unix_s = unix_s
        self._thread = threading.Thread(target=self.run, name="raydc-standstill", daemon=True)

    def run(self) -> None:
        """Watches until the end."""
        last_s = self._now_s()
        while not self._wait(_TICK_S):
            now_s = self._now_s()
            # A tick that comes late was due while the process stood still.
            late_s = now_s - last_s - _TICK_S
            last_s = now_s
            if late_s >= LEAST_S:
                self._record(late_s)

    def _record(self, for_s: float) -> None:
        until_s = self._unix_s()
        fields: dict[str, Any] = {"rank": self._rank, "for_s": round(for_s, 3)}
        fields |= {"since_s": until_s - for_s, "until_s": until_s}
        try:
            if self._record_event is not None:
                self._record_event(KIND, **fields)
        except Exception:  # noqa: BLE001 - an account must not end a run.
            self._record_event = None

    def __enter__(self) -> StandstillWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()
