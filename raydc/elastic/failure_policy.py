"""Which failures of a run are retried. Runs in the controller actor.

Ray Train counts failures and preemptions against the limits of the spec. This module
decides which ends of a worker group are neither, and which errors are not worth a retry.
"""

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

# An error that comes up as often as this at the same step is deterministic, so retries are useless.
_MAX_EQUAL_FAILURES = 3
# An event is one line of events.jsonl; messages of Ray may hold several tracebacks.
_MAX_ERROR_CHARS = 2000


class NodeLostError(Exception):
    """The node of a worker no longer responds."""


class ElasticFailurePolicy(internals.DefaultFailurePolicy):  # type: ignore[misc]
    """Ray Train's policy, with planned stops and without useless retries.

    Args:
        failure_config: Ray Train's limits.
        mailbox: Handle of the run's mailbox, which takes events.
    """

    def __init__(self, failure_config: Any, mailbox: Any) -> None:
        super().__init__(failure_config)
        self._mailbox = mailbox
        self._counts: Counter[str] = Counter()

    def make_decision(self, training_failed_error: Any) -> Any:
        """Decides between Ray's RETRY and RAISE."""
        error = training_failed_error
        if not isinstance(error, internals.WorkerGroupError):
            return self._decide_start(error)
        failures = list(error.worker_failures.values())
        # All ranks stop together, but some may lose a peer that was faster: one is enough.
        for stop in (failure for failure in failures if isinstance(failure, PlannedStopError)):
            self._post_end(stop.reason, str(stop))
            if stop.reason == planned_stop.DRAIN:
                # Counts against max_preemption_failures, not against max_failures.
                info = internals.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={})
                return super().make_decision(internals.PreemptionError(info))
            # The driver ends; another one will continue.
            if stop.reason == planned_stop.INTERRUPT:
                return internals.FailureDecision.RAISE
            # Growing counts against no limit.
            return internals.FailureDecision.RETRY
        # A deliberate refusal would be the same again.
        if any(isinstance(failure, RaydcError) for failure in failures):
            return internals.FailureDecision.RAISE
        # A set: several ranks that fail alike are one failure.
        keys = {failure.key for failure in failures if isinstance(failure, WorkerFailure)}
        self._counts.update(keys)
        self._post_end(_cause(failures), str(error))
        if any(self._counts[key] >= _MAX_EQUAL_FAILURES for key in keys):
            return internals.FailureDecision.RAISE
        return super().make_decision(error)

    def _decide_start(self, error: Any) -> Any:
        """Decides about a group that did not start; Ray counts these apart from failures."""
        cause = getattr(getattr(error, "controller_failure", None), "__cause__", None)
        # A task error is not a death but an exception at the start, such as a failed import.
        if isinstance(cause, ray.exceptions.RayTaskError):
            self._counts[str(cause)] += 1
            if self._counts[str(cause)] >= _MAX_EQUAL_FAILURES:
                return internals.FailureDecision.RAISE
        return super().make_decision(error)

    def _post_end(self, cause: str, error: str) -> None:
        record = {
            "kind": "attempt_ended",
            "time_s": round(time.time(), 3),
            "cause": cause,
            "error": error[:_MAX_ERROR_CHARS],
        }
        # No wait for the reply: the controller must decide even if the driver's node is slow.
        self._mailbox.post_event.remote(record)


def _cause(failures: list[Any]) -> str:
    if any(isinstance(failure, NodeLostError) for failure in failures):
        return "node"
    return "error" if any(isinstance(failure, WorkerFailure) for failure in failures) else "worker"
