"""The rule that promotes or drops a canary."""

from __future__ import annotations

import pytest
from traffic_samples import tallied

from raydc.serve.control.rollout import decide
from raydc.serve.tally import Tally
from raydc.spec.sections import CanaryRule

RULE = CanaryRule(min_requests=100, max_error_fraction=0.02, max_latency_ratio=2.0)


@pytest.mark.parametrize(
    ("canary", "kind", "reason"),
    [
        (tallied(99), "wait", "99 of 100"),
        (tallied(100), "promote", "100 requests"),
        (tallied(100, 2), "promote", "2 failed"),
        (tallied(7, 3), "drop", "3 of 10 requests failed"),
        (tallied(979, 21), "drop", "21 of 1000"),
        (tallied(0, 3, error=408), "drop", "3 of 3"),
        (tallied(100, seconds=0.05), "drop", "p95"),
        (tallied(0), "wait", "0 of 100"),
        (tallied(0, refused=100), "drop", "refused 100.0%"),
        (tallied(100, refused=8), "drop", "the stable version 3.8%"),
        (tallied(99, refused=5), "wait", "99 of 100 requests answered"),
    ],
)
def test_decide_by_errors_refusals_and_latency(canary: Tally, kind: str, reason: str) -> None:
    decision = decide(tallied(500, refused=20), canary, RULE)
    assert (decision.kind, reason in decision.reason) == (kind, True), decision


def test_decide_waits_without_requests_to_the_stable_version() -> None:
    assert decide(Tally(), tallied(500), RULE).kind == "wait"
