"""When a state goes to storage, and when to peer memory."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.checkpoint.interval import CheckpointInterval, FailureHistory
from raydc.checkpoint.policies import MemoryPolicy, StoragePolicy, Urgency
from raydc.checkpoint.timing import Timing
from raydc.spec.resolved import ResolvedCheckpoint

TIMING = Timing(memory_every_s=1.0, memory_late_s=0.5, memory_pause_s=30.0)


def storage_policy(**section: Any) -> StoragePolicy:
    return StoragePolicy(
        CheckpointInterval(ResolvedCheckpoint(**section), FailureHistory(), 0, 0.0)
    )


def memory_policy(max_steps: int = 10) -> MemoryPolicy:
    return MemoryPolicy(max_steps, TIMING)


def test_storage_by_steps_is_urgent_and_stays_due() -> None:
    policy = storage_policy(every_steps=4)
    urgencies = [policy.urgency(step, 0.0) for step in range(3, 7)]
    assert urgencies == [Urgency.NOT_DUE, Urgency.NOW, Urgency.NOW, Urgency.NOW]
    policy.record_copy(6, 0.0, 0.1)
    assert [policy.urgency(step, 0.0) for step in (7, 8)] == [Urgency.NOT_DUE, Urgency.NOW]


@pytest.mark.parametrize("every_seconds", [5.0, "auto"])
def test_storage_by_seconds_waits_for_no_step(every_seconds: float | str) -> None:
    policy = storage_policy(every_seconds=every_seconds)
    assert [policy.urgency(1, now_s) for now_s in (4.9, 5.0)] == [Urgency.NOT_DUE, Urgency.IF_FREE]


def test_storage_gives_up_after_three_failures_in_a_row() -> None:
    policy = storage_policy(every_steps=4)
    for _ in range(2):
        policy.record_failure()
    policy.record_write(0.1)
    for number in range(1, 4):
        assert not policy.has_given_up
        policy.record_failure()
        assert policy.num_failures == number
    assert policy.has_given_up


def test_storage_explains_auto_once_and_after_a_notable_change() -> None:
    policy = storage_policy(every_seconds="auto")
    policy.record_copy(1, 0.0, 0.01)
    first = policy.explain_change(0.0)
    assert first is not None
    assert first.keys() == {"interval_s", "cost_s", "mtbf_s", "failures"}
    assert policy.explain_change(0.0) is None
    # The interval goes with the root of the cost: a little more says nothing, tenfold does.
    policy.add_cost(0.005)
    assert policy.explain_change(0.0) is None
    policy.add_cost(0.09)
    second = policy.explain_change(0.0)
    assert second is not None
    assert second["interval_s"] > 2 * first["interval_s"]


@pytest.mark.parametrize("section", [{"every_steps": 4}, {"every_seconds": 5.0}])
def test_storage_with_a_given_interval_explains_nothing(section: dict[str, Any]) -> None:
    policy = storage_policy(**section)
    policy.record_copy(4, 0.0, 0.01)
    assert policy.explain_change(0.0) is None


@pytest.mark.parametrize(("max_steps", "every"), [(10, 8), (5, 4), (2, 1), (1, 1)])
def test_memory_is_due_at_four_fifths_of_the_limit(max_steps: int, every: int) -> None:
    policy = memory_policy(max_steps)
    policy.start(20)
    assert policy.urgency(20 + every - 1, 0.0) is Urgency.NOT_DUE
    assert policy.urgency(20 + every, 0.0) is Urgency.IF_FREE


def test_memory_is_urgent_once_a_state_has_arrived() -> None:
    policy = memory_policy()
    policy.record_send(8, 0.0)
    assert policy.urgency(16, 5.0) is Urgency.IF_FREE
    assert policy.record_arrival()
    assert not policy.record_arrival()
    assert policy.urgency(16, 5.0) is Urgency.NOW


def test_memory_with_fast_steps_is_due_by_the_clock() -> None:
    policy = memory_policy(1)
    policy.record_send(1, 100.0)
    policy.record_arrival()
    assert [policy.urgency(9, now_s) for now_s in (100.9, 101.0)] == [Urgency.NOT_DUE, Urgency.NOW]


def test_memory_that_refused_is_left_alone_and_promises_nothing() -> None:
    policy = memory_policy()
    policy.record_arrival()
    policy.record_send(8, 0.0)
    policy.record_refusal(1.0)
    assert not policy.must_have_arrived(18, 20.0)
    assert [policy.urgency(16, now_s) for now_s in (30.9, 31.0)] == [
        Urgency.NOT_DUE,
        Urgency.IF_FREE,
    ]
    assert policy.record_arrival()


def test_memory_must_have_arrived_before_the_limit_is_broken() -> None:
    policy = memory_policy(10)
    policy.record_send(8, 0.0)
    assert not policy.must_have_arrived(18, 9.0), "nothing was promised before the first arrival"
    policy.record_arrival()
    # Two steps after the state of step 8, the one before it may be ten steps old.
    assert [policy.must_have_arrived(step, 9.0) for step in (9, 10, 11)] == [False, True, True]
    assert not policy.must_have_arrived(11, 0.4), "it has just left"
