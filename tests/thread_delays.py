"""Makes threads late at random, so that a test that counts on their timing fails.

Such a test passes on a quiet machine, and fails once in some hundred runs on a busy one. With
`pytest --delay-threads SEED` it fails soon. Runs in each process of pytest, and only there.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

import pytest

_FRACTION = 0.5
_MOST_S = 0.03


class ThreadDelays:
    """Delays of what other threads wait for.

    Args:
        seed: Seed of the delays. Threads draw from it in the order in which they come, so a seed
            gives similar delays in the next run, not the same ones.
        sleep: Takes the place of `time.sleep`.

    Attributes:
        counts: Delays so far, by the name of the function that was delayed.
    """

    def __init__(self, seed: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self._random = random.Random(seed)
        self._sleep = sleep
        self.counts: Counter[str] = Counter()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Delays threads at their start and tasks of pools, what an event loop is told by another
        thread, files that a thread renames, and those who have waited for an event or a queue."""
        self._delay_before(patch, threading.Thread, "run")
        for name in ("rename", "replace"):
            self._delay_before(patch, os, name, only_threads=True)
        self._delay_after(patch, threading.Event, "wait")
        self._delay_after(patch, queue.Queue, "get")
        self._delay_argument(patch, ThreadPoolExecutor, "submit")
        self._delay_argument(patch, asyncio.BaseEventLoop, "call_soon_threadsafe")

    def _nap(self, name: str) -> None:
        if self._random.random() < _FRACTION:
            self.counts[name] += 1
            self._sleep(self._random.random() * _MOST_S)

    def _delay_before(
        self, patch: pytest.MonkeyPatch, owner: Any, name: str, only_threads: bool = False
    ) -> None:
        call = getattr(owner, name)

        @wraps(call)
        def delayed(*arguments: Any, **options: Any) -> Any:
            if not only_threads or threading.current_thread() is not threading.main_thread():
                self._nap(name)
            return call(*arguments, **options)

        patch.setattr(owner, name, delayed)

    def _delay_after(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        call = getattr(owner, name)

        @wraps(call)
        def delayed(*arguments: Any, **options: Any) -> Any:
            found = call(*arguments, **options)
            self._nap(name)
            return found

        patch.setattr(owner, name, delayed)

    def _delay_argument(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        """Delays what a method gets to call later, in the thread that calls it."""
        call = getattr(owner, name)

        @wraps(call)
        def delayed(self_: Any, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            @wraps(work)
            def late(*given: Any, **named: Any) -> Any:
                self._nap(name)
                return work(*given, **named)

            return call(self_, late, *arguments, **options)

        patch.setattr(owner, name, delayed)
