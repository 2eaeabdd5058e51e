"""Shadow traffic in a replica: computes copies of requests with another version and compares.

The answers of the shadow reach no client; only how often it agrees is counted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

Predictions = list[dict[str, Any]]

# Copies at a time. Further ones are counted and not computed: a slow shadow must not use up memory.
_MAX_COPIES = 4
# Relative difference up to which two values of a regression agree.
_SAME_VALUE = 1e-3


@dataclass
class ShadowComparison:
    """Counts of the comparison with one shadow.

    Attributes:
        version: Number of the shadow's version, to which the counts belong.
        num_copied: Requests that were copied to it.
        num_left_out: Requests that were not copied, because it was busy.
        num_failed: Copies that failed.
        num_rows: Rows that were compared.
        num_different: Rows whose predictions differ.
        seconds: Time that the copies took.
    """

    version: int
    num_copied: int = 0
    num_left_out: int = 0
    num_failed: int = 0
    num_rows: int = 0
    num_different: int = 0
    seconds: float = 0.0


class ShadowRunner:
    """Computes copies one after the other in its own thread. Belongs to one event loop."""

    def __init__(self) -> None:
        self._comparison: ShadowComparison | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "shadow")

    def counts(self) -> dict[str, Any] | None:
        """Returns the comparison with the newest shadow as a dict; None before the first copy."""
        return asdict(self._comparison) if self._comparison else None

    def reset(self) -> None:
        """Starts all counts from zero."""
        self._comparison = None

    async def wait(self) -> None:
        """Waits until all submitted copies are counted."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def submit(
        self,
        version: int,
        predict_answered: Callable[[], Predictions],
        predict_shadow: Callable[[], Predictions],
    ) -> None:
        """Submits a copy of an answered request; returns at once and never raises.

        Args:
            version: Number of the shadow's version; another one starts new counts.
            predict_answered: Makes the predictions that the client got; called in a thread.
            predict_shadow: Makes those of the shadow from the request; called in a thread, and may
                raise anything.
        """
        if self._comparison is None or self._comparison.version != version:
            self._comparison = ShadowComparison(version)
        if len(self._tasks) >= _MAX_COPIES:
            self._comparison.num_left_out += 1
            return
        task = asyncio.get_running_loop().create_task(
            self._run(self._comparison, predict_answered, predict_shadow)
        )
        # Kept, because the loop refers to its tasks weakly and could lose one.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self,
        comparison: ShadowComparison,
        predict_answered: Callable[[], Predictions],
        predict_shadow: Callable[[], Predictions],
    ) -> None:
        started_s = time.perf_counter()
        try:
            agreements = await asyncio.get_running_loop().run_in_executor(
                self._thread, _compare, predict_answered, predict_shadow
            )
        # A model may raise anything, and no client waits for this answer.
        except Exception:  # noqa: BLE001
            comparison.num_failed += 1
        else:
            comparison.num_rows += len(agreements)
            comparison.num_different += agreements.count(False)
        finally:
            comparison.num_copied += 1
            comparison.seconds += time.perf_counter() - started_s


def _compare(
    predict_answered: Callable[[], Predictions], predict_shadow: Callable[[], Predictions]
) -> list[bool]:
    # `strict`: a shadow with a different number of rows has failed.
    pairs = zip(predict_answered(), predict_shadow(), strict=True)
    return [_agree(answered, shadow) for answered, shadow in pairs]


def _agree(answered: dict[str, Any], shadow: dict[str, Any]) -> bool:
    for key in ("label", "labels"):
        if key in answered or key in shadow:
            return bool(answered.get(key) == shadow.get(key))
    pairs = zip(_steps(answered["value"]), _steps(shadow["value"]), strict=True)
    # The absolute tolerance is for values around zero, where none is relatively close.
    return all(math.isclose(a, b, rel_tol=_SAME_VALUE, abs_tol=1e-12) for a, b in pairs)


def _steps(value: float | list[float]) -> list[float]:
    """The values of a forecast, which may have one step."""
    return value if isinstance(value, list) else [value]
