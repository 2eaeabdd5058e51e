"""When a checkpoint is due."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.checkpoint.interval import (
    MAX_INTERVAL_S,
    PRIOR_MTBF_S,
    CheckpointInterval,
    FailureHistory,
    read_failures,
    young_daly,
)
from raydc.checkpoint.timing import Timing
from raydc.spec.resolved import ResolvedCheckpoint

MIN_INTERVAL_S = Timing().min_interval_s


def test_young_daly_minimises_the_lost_time() -> None:
    cost_s, mtbf_s = 2.0, 3600.0
    best = young_daly(cost_s, mtbf_s)
    assert best == 120.0

    def lost(interval_s: float) -> float:
        """Time lost per second: by checkpoints, and by half an interval per failure."""
        return cost_s / interval_s + interval_s / 2 / mtbf_s

    assert all(lost(best) < lost(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))


def event(kind: str, time_s: float, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "time_s": time_s, **fields}


def test_read_failures_counts_attempts_that_did_not_end_on_purpose() -> None:
    assert read_failures([]) == FailureHistory(0, 0.0)
    history = [
        event("run_started", 0.0),
        event("attempt_started", 10.0),
        event("checkpoint", 70.0),
        # The first attempt failed after 60 s; the pause before the second is not training.
        event("attempt_started", 200.0),
        event("handed_over", 230.0),
        event("attempt_started", 300.0),
        event("run_finished", 310.0),
    ]
    assert read_failures(history) == FailureHistory(1, 60.0 + 30.0 + 10.0)
    assert read_failures(history[:5]) == FailureHistory(1, 90.0)
    assert read_failures(history[:4]) == FailureHistory(2, 60.0)


def test_mtbf_moves_from_the_prior_to_the_observed_value() -> None:
    assert FailureHistory().mtbf_s == PRIOR_MTBF_S
    assert FailureHistory(99, 99 * 60.0).mtbf_s == pytest.approx((PRIOR_MTBF_S + 5940) / 100)
    assert FailureHistory(0, 10 * PRIOR_MTBF_S).mtbf_s == 11 * PRIOR_MTBF_S


def test_interval_in_steps_stays_due_until_a_copy() -> None:
    interval = CheckpointInterval(ResolvedCheckpoint(every_steps=4), FailureHistory(), 8, 0.0)
    assert interval.counts_steps
    assert [step for step in range(8, 17) if interval.is_due(step, 0.0)] == [12, 13, 14, 15, 16]
    interval.record_copy(13, 0.0, 0.1)
    assert [step for step in range(13, 18) if interval.is_due(step, 0.0)] == [16, 17]


def test_interval_in_seconds_starts_again_at_each_copy() -> None:
    interval = CheckpointInterval(
        ResolvedCheckpoint(every_seconds=30.0), FailureHistory(), 0, 100.0
    )
    assert not interval.counts_steps
    assert [now for now in (100.0, 129.9, 130.0, 500.0) if interval.is_due(1, now)] == [
        130.0,
        500.0,
    ]
    interval.record_copy(1, 131.0, 5.0)
    assert not interval.is_due(2, 160.9)
    assert interval.is_due(2, 161.0)


def test_interval_auto_follows_cost_and_failures() -> None:
    section = ResolvedCheckpoint(every_seconds="auto")
    interval = CheckpointInterval(section, FailureHistory(), 0, 0.0)
    assert interval.interval_s(0.0) == MIN_INTERVAL_S
    interval.record_copy(1, 0.0, 0.01)
    assert interval.interval_s(0.0) == pytest.approx(young_daly(0.01, PRIOR_MTBF_S))
    failing = CheckpointInterval(section, FailureHistory(20, 2000.0), 0, 0.0)
    failing.record_copy(1, 0.0, 0.01)
    assert failing.interval_s(0.0) < interval.interval_s(0.0) / 4
    assert failing.explain(0.0) == {
        "interval_s": round(failing.interval_s(0.0), 1),
        "cost_s": 0.01,
        "mtbf_s": 4210,
        "failures": 20,
    }


@pytest.mark.parametrize(
    ("cost_s", "write_s", "expected_s"),
    [(1e-9, 0.0, MIN_INTERVAL_S), (1e4, 0.0, MAX_INTERVAL_S), (1e-4, 30.0, 120.0)],
)
def test_interval_auto_has_bounds(cost_s: float, write_s: float, expected_s: float) -> None:
    interval = CheckpointInterval(
        ResolvedCheckpoint(every_seconds="auto"), FailureHistory(), 0, 0.0
    )
    interval.record_copy(1, 0.0, cost_s)
    interval.record_write(write_s)
    assert interval.interval_s(0.0) == expected_s


def test_interval_auto_uses_the_median_cost() -> None:
    interval = CheckpointInterval(
        ResolvedCheckpoint(every_seconds="auto"), FailureHistory(), 0, 0.0
    )
    for cost_s in (5.0, 0.01, 0.01):
        interval.record_copy(1, 0.0, cost_s)
    assert interval.explain(0.0)["cost_s"] == 0.01
