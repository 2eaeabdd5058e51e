"""What of a run is tried again: Ray Train counts failures and preemptions; which failures are neither is known here."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import ray

from raydc.elastic.worker_failure import WorkerFailure
from raydc.engine import internals
from raydc.errors import RaydcError
from raydc.loop import planned_stop
from raydc.loop.planned_stop import PlannedStopError

_SAME_FAILURES = 3


class NodeLostError(Exception):
    """The node of a worker no longer answers."""


class FailurePolicy(internals.DefaultFailurePolicy):  # type: ignore[misc]
    """Ray Train's policy, without what has no use in being tried again, and without planned ends.

    Args:
        failure_config: Ray Train's.
        board: Takes events.
    """

    def __init__(self, failure_config: Any, board: Any) -> None:
        super().__init__(failure_config)
        self._board = board
        self._same: Counter[str] = Counter()

    def make_decision(self, training_failed_error: Any) -> Any:
        """RETRY or RAISE."""
        error = training_failed_error
        if not isinstance(error, internals.WorkerGroupError):
            return self._decide_start(error)
        failures = list(error.worker_failures.values())
        for left in (failure for failure in failures if isinstance(failure, PlannedStopError)):
            self._tell(left.reason, str(left))
            if left.reason == planned_stop.DRAIN:
                # Ray's own count of preemptions, and not of failures.
                info = internals.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={})
                return super().make_decision(internals.PreemptionError(info))
            return internals.FailureDecision.RETRY
        if any(isinstance(failure, RaydcError) for failure in failures):
            return internals.FailureDecision.RAISE
        keys = {failure.key for failure in failures if isinstance(failure, WorkerFailure)}
        self._same.update(keys)
        self._tell(_cause(failures), str(error))
        if any(self._same[key] >= _SAME_FAILURES for key in keys):
            return internals.FailureDecision.RAISE
        return super().make_decision(error)

    def _decide_start(self, error: Any) -> Any:
        cause = getattr(getattr(error, "controller_failure", None), "__cause__", None)
        if isinstance(cause, ray.exceptions.RayTaskError):
            # Not a death: what a worker could not do at its start, an import for example.
            self._same[str(cause)] += 1
            if self._same[str(cause)] >= _SAME_FAILURES:
                return internals.FailureDecision.RAISE
        return super().make_decision(error)

    def _tell(self, cause: str, error: str) -> None:
        record = {
            "kind": "attempt_ended",
            "time_s": round(time.time(), 3),
            "cause": cause,
            "error": error[:2000],
        }
        self._board.record.remote(record)


def _cause(failures: list[Any]) -> str:
    if any(isinstance(failure, NodeLostError) for failure in failures):
        return "node"
    return "error" if any(isinstance(failure, WorkerFailure) for failure in failures) else "worker"
