"""When idle workers join, and which trial they join."""

from __future__ import annotations

import pytest

from raydc.elastic.join_gain import RunningTrial, choose_joins, speed


def choose(*left_s: float, free: int, workers: int = 1, shards: int = 4) -> dict[str, int]:
    trials = [RunningTrial(str(number), one, workers) for number, one in enumerate(left_s)]
    return choose_joins(trials, free, most=4, shards=shards, join_s=1.0)


def test_speed_follows_the_worker_with_most_shards() -> None:
    assert speed(1, 4) == 1.0
    assert speed(2, 4) == pytest.approx(2**0.8)
    assert speed(3, 4) < speed(2, 4)
    assert speed(4, 4) == pytest.approx(4**0.8)


def test_worker_joins_the_trial_that_is_done_last() -> None:
    assert choose(20.0, 60.0, 30.0, free=1) == {"1": 2}
    assert choose(20.0, 60.0, 30.0, free=0) == {}
    assert choose(free=3) == {}


def test_workers_go_on_to_other_trials_once_one_is_no_longer_the_last() -> None:
    assert choose(60.0, 50.0, free=2) == {"0": 2, "1": 2}
    # Two more for the same trial come together: three workers are no faster than two.
    assert choose(60.0, 10.0, free=3) == {"0": 4}
    assert choose(60.0, free=2) == {"0": 2}
    assert choose(60.0, free=1, workers=2) == {}
    assert choose(60.0, free=2, workers=2) == {"0": 4}


def test_nobody_joins_for_less_work_than_two_stops_take() -> None:
    assert choose(4.0, free=1) == {}
    assert choose(5.0, free=1) == {"0": 2}


def test_trial_gets_no_more_workers_than_it_has_shards() -> None:
    assert choose(600.0, free=8, shards=1) == {}
    assert choose(600.0, free=8, shards=2) == {"0": 2}
    assert choose(600.0, free=8, shards=8) == {"0": 4}
