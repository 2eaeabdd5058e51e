"""Which failures are retried, and which limit they count against."""

from __future__ import annotations

from typing import Any

from fake_mailbox import FakeMailbox
from ray.exceptions import RayTaskError
from ray.train import FailureConfig
from worker_failures import make_failure

from raydc.elastic.failure_policy import (
    _MAX_ERROR_CHARS,
    ElasticFailurePolicy,
    NodeLostError,
)
from raydc.engine import internals
from raydc.errors import DataError
from raydc.loop.lost_peer import PeerLostError
from raydc.loop.planned_stop import PlannedStopError

RETRY, RAISE = internals.FailureDecision.RETRY, internals.FailureDecision.RAISE


def make_policy(
    max_failures: int, max_preemption_failures: int = -1
) -> tuple[ElasticFailurePolicy, FakeMailbox]:
    mailbox = FakeMailbox()
    config = FailureConfig(
        max_failures=max_failures, max_preemption_failures=max_preemption_failures
    )
    return ElasticFailurePolicy(config, mailbox), mailbox


def group_error(*by_rank: Exception) -> Any:
    return internals.WorkerGroupError("failed", dict(enumerate(by_rank)))


def test_planned_stop_counts_against_no_limit() -> None:
    policy, mailbox = make_policy(max_failures=0, max_preemption_failures=0)
    error = group_error(PlannedStopError("grow", 4), PlannedStopError("grow", 4))
    assert [policy.make_decision(error) for _ in range(5)] == [RETRY] * 5
    assert mailbox.events[0]["cause"] == "grow"


def test_drain_counts_as_a_preemption() -> None:
    policy, _ = make_policy(max_failures=0, max_preemption_failures=1)
    error = group_error(PeerLostError("lost"), PlannedStopError("drain", 4))
    assert [policy.make_decision(error), policy.make_decision(error)] == [RETRY, RAISE]


def test_refusal_of_a_worker_raises_at_once() -> None:
    policy, _ = make_policy(-1)
    assert policy.make_decision(group_error(DataError("no"), PeerLostError("lost"))) == RAISE


def test_same_error_at_the_same_step_raises_the_third_time() -> None:
    policy, _ = make_policy(max_failures=-1)
    others = [make_failure(step=4), make_failure("dog"), make_failure(step=5)]
    assert [policy.make_decision(group_error(error)) for error in others] == [RETRY] * 3
    # On whichever rank it comes up.
    same = [make_failure(rank=rank) for rank in (0, 1, 0)]
    decisions = [policy.make_decision(group_error(error, PeerLostError("lost"))) for error in same]
    assert decisions == [RETRY, RETRY, RAISE]


def test_ranks_that_fail_alike_are_one_failure() -> None:
    policy, _ = make_policy(max_failures=-1)
    error = group_error(*(make_failure(rank=rank) for rank in range(4)))
    assert [policy.make_decision(error) for _ in range(3)] == [RETRY, RETRY, RAISE]


def test_event_holds_the_start_of_a_long_error() -> None:
    policy, mailbox = make_policy(max_failures=1)
    traceback = "Traceback of a worker\n" * 1000
    policy.make_decision(internals.WorkerGroupError(traceback, {0: RuntimeError("died")}))
    (event,) = mailbox.events
    assert len(event["error"]) == _MAX_ERROR_CHARS
    assert "Traceback of a worker" in event["error"]


def test_death_of_a_worker_counts_against_max_failures() -> None:
    policy, mailbox = make_policy(max_failures=2)
    error = group_error(RuntimeError("died"))
    assert [policy.make_decision(error) for _ in range(3)] == [RETRY, RETRY, RAISE]
    policy.make_decision(group_error(NodeLostError("gone"), RuntimeError("died")))
    causes = [event["cause"] for event in mailbox.events]
    assert causes == ["worker", "worker", "worker", "node"]


def test_exception_at_the_start_raises_the_third_time() -> None:
    policy, _ = make_policy(max_failures=0)
    policy.failure_config.controller_failure_limit = -1

    def not_started(cause: Exception) -> Any:
        error = internals.WorkerGroupStartupFailedError("a worker died at its start")
        error.__cause__ = cause
        return internals.ControllerError(error)

    task_error = RayTaskError("work", "Traceback ... ImportError", ImportError("no module"))
    decisions = [policy.make_decision(not_started(task_error)) for _ in range(3)]
    assert decisions == [RETRY, RETRY, RAISE]
    assert policy.make_decision(not_started(OSError("died"))) == RETRY
