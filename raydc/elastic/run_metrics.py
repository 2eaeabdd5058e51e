"""The time account of a run as Prometheus metrics; Ray's metrics agent on the driver's node exports
them. Runs in the driver.

ray_raydc_time_seconds_total{run, phase}   seconds by phase, see `raydc.tracking.time_account`
ray_raydc_steps_total{run, kind}           steps: useful or recomputed
ray_raydc_rows_total{run}                  rows of all these steps
ray_raydc_restarts_total{run}              starts of the workers after the first
"""

from __future__ import annotations

import time
from typing import Any

from raydc.tracking.time_account import Account


class RunMetrics:
    """Counts what a run publishes. The driver holds the counters, so they survive its workers.

    Args:
        run: Name of the run, a tag of every metric.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter

        # Tags of Ray are ASCII; runs of older versions may have other letters in their names.
        self._run = run.encode("ascii", "backslashreplace").decode()
        self._account = Account()
        # The driver's own event is not published, and the account starts with it.
        self._account.add({"kind": "run_started", "time_s": time.time()})
        self._exported: dict[tuple[str, ...], float] = {}
        self._counters = {
            "time": Counter(
                "raydc_time_seconds_total",
                "Seconds of a run by phase.",
                ("run", "phase"),
            ),
            "steps": Counter("raydc_steps_total", "Steps of a run.", ("run", "kind")),
            "rows": Counter("raydc_rows_total", "Rows of all steps of a run.", ("run",)),
            "restarts": Counter(
                "raydc_restarts_total", "Starts of the workers after the first.", ("run",)
            ),
        }

    def add(self, record: dict[str, Any]) -> None:
        """Adds a published record and updates the counters."""
        if "time_s" not in record:
            return  # Progress; its steps will be in the next record of the phase timer.
        account = self._account
        account.add(record)
        for phase, seconds in account.seconds.items():
            self._export("time", seconds, phase=phase)
        self._export("steps", account.useful_steps, kind="useful")
        self._export("steps", account.recomputed_steps, kind="recomputed")
        self._export("rows", account.rows)
        self._export("restarts", account.restarts)

    def _export(self, name: str, total: float, **tags: str) -> None:
        # Ray's counters take increments, the account has totals.
        key = (name, *tags.values())
        increment = total - self._exported.get(key, 0.0)
        if increment > 0:
            self._counters[name].inc(increment, {"run": self._run, **tags})
            self._exported[key] = total
