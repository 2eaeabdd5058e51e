"""Copies of requests to a version that answers nobody, and how far it agrees with the one that answered."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Predictions = list[dict[str, Any]]

# Copies in work at a time. What comes meanwhile is not copied, and counted: a slow shadow must not pile up work.
_MAX_COPIES = 4
_SAME_VALUE = 1e-3
"""Relative difference up to which two values of a regression agree."""


@dataclass
class ShadowComparison:
    """Requests that were copied, not copied, and failed in the shadow; rows compared and rows that differ."""

    version: int
    num_copied: int = 0
    num_left_out: int = 0
    num_failed: int = 0
    num_rows: int = 0
    num_different: int = 0
    seconds: float = 0.0


class ShadowRunner:
    """Computes copies in a thread of their own, one after the other."""

    def __init__(self) -> None:
        self._comparison: ShadowComparison | None = None
        self._num_in_work = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "shadow")

    def counts(self) -> dict[str, Any] | None:
        """The comparison with the newest shadow as a dict; None before the first copy."""
        return dict(vars(self._comparison)) if self._comparison else None

    def reset(self) -> None:
        """Starts counting anew."""
        self._comparison = None

    def submit(
        self, version: int, given: Callable[[], Predictions], found: Callable[[], Predictions]
    ) -> None:
        """Hands over a copy of a request that has been answered; returns at once and never raises.

        Args:
            version: The shadow.
            given: Makes the predictions that the client got.
            found: Makes those of the shadow, from the request on; may raise anything. Both run in another thread.
        """
        if self._comparison is None or self._comparison.version != version:
            self._comparison = ShadowComparison(version)
        if self._num_in_work >= _MAX_COPIES:
            self._comparison.num_left_out += 1
            return
        self._num_in_work += 1
        task = asyncio.get_running_loop().create_task(self._run(self._comparison, given, found))
        self._tasks.add(task)  # The loop itself holds tasks weakly.
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self,
        comparison: ShadowComparison,
        given: Callable[[], Predictions],
        found: Callable[[], Predictions],
    ) -> None:
        started = time.perf_counter()
        try:
            agreements = await asyncio.get_running_loop().run_in_executor(
                self._thread, _compare, given, found
            )
        except Exception:  # noqa: BLE001 -- a model may raise anything, and nobody waits for this answer.
            comparison.num_failed += 1
        else:
            comparison.num_rows += len(agreements)
            comparison.num_different += agreements.count(False)
        finally:
            self._num_in_work -= 1
            comparison.num_copied += 1
            comparison.seconds += time.perf_counter() - started


def _compare(given: Callable[[], Predictions], found: Callable[[], Predictions]) -> list[bool]:
    return [_agree(one, other) for one, other in zip(given(), found(), strict=True)]


def _agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if "label" in one or "label" in other:
        return one.get("label") == other.get("label")
    return math.isclose(one["value"], other["value"], rel_tol=_SAME_VALUE, abs_tol=1e-12)
