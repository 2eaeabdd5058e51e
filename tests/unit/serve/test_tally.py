"""Counts of requests add up over replicas and give percentiles."""

from __future__ import annotations

from traffic_samples import tallied

from raydc.serve.tally import BOUNDS_S, Tally, sum_tallies


def test_tallies_add_up_and_give_percentiles() -> None:
    both = sum_tallies(
        [tallied(90, seconds=0.001).to_dict(), tallied(9, 1, 0.1, refused=2).to_dict()]
    )
    assert (both.num_answered, both.num_errors, both.num_refused, both.num_requests) == (
        99,
        1,
        2,
        102,
    )
    half, most = both.percentile_s(0.5), both.percentile_s(0.95)
    assert half is not None
    assert most is not None
    assert 0.001 <= half <= 0.001 * 2**0.5
    assert 0.1 <= most <= 0.1 * 2**0.5
    assert Tally().percentile_s(0.5) is None
    slow = Tally()
    slow.add(200, 2 * BOUNDS_S[-1])
    assert slow.percentile_s(0.5) == float("inf")
