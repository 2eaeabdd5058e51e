"""The account of a run as Prometheus metrics: Ray's metrics agent of the driver's node exports them.

ray_raydc_time_seconds_total{run, phase}   seconds by name, see `raydc.tracking.time_account`
ray_raydc_steps_total{run, kind}           steps: useful or recomputed
ray_raydc_rows_total{run}                  rows of all these steps
ray_raydc_restarts_total{run}              starts of the workers after the first
"""

from __future__ import annotations

import time
from typing import Any

from raydc.tracking.time_account import Account


class RunMetrics:
    """Counts what a run publishes. They are the driver's, so they go on when workers are started again.

    Args:
        run: Name of the run.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter

        self._run = run
        self._account = Account()
        self._account.add({"kind": "run_started", "time_s": time.time()})
        self._shown: dict[tuple[str, ...], float] = {}
        self._counters = {
            "time": Counter(
                "raydc_time_seconds_total",
                "Seconds of a run by what they went into.",
                ("run", "phase"),
            ),
            "steps": Counter("raydc_steps_total", "Steps of a run.", ("run", "kind")),
            "rows": Counter("raydc_rows_total", "Rows of all steps of a run.", ("run",)),
            "restarts": Counter(
                "raydc_restarts_total", "Starts of the workers after the first.", ("run",)
            ),
        }

    def add(self, record: dict[str, Any]) -> None:
        """A published record."""
        if "time_s" not in record:
            return  # Progress: what it says will be in the next record of the clock.
        account = self._account
        account.add(record)
        for phase, seconds in account.seconds.items():
            self._show("time", seconds, phase=phase)
        self._show("steps", account.useful_steps, kind="useful")
        self._show("steps", account.recomputed_steps, kind="recomputed")
        self._show("rows", account.rows)
        self._show("restarts", account.restarts)

    def _show(self, name: str, total: float, **tags: str) -> None:
        """Counters take increments."""
        key = (name, *tags.values())
        increment = total - self._shown.get(key, 0.0)
        if increment > 0:
            self._counters[name].inc(increment, {"run": self._run, **tags})
            self._shown[key] = total
