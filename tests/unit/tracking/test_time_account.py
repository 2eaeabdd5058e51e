"""The time account: every second has one phase, and they add up to the wall time."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.tracking import time_account
from raydc.tracking.time_account import NAMES, add_up

NOTHING = dict.fromkeys(NAMES, 0.0)


def at(time_s: float, kind: str, **fields: Any) -> dict[str, Any]:
    return {"time_s": time_s, "kind": kind, **fields}


def timed(
    since_s: float, until_s: float, useful: int = 0, again: int = 0, **seconds: float
) -> dict[str, Any]:
    counts = {
        "step": 0,
        "useful_steps": useful,
        "recomputed_steps": again,
        "rows": 10 * (useful + again),
    }
    return at(until_s + 50.0, "time", since_s=since_s, until_s=until_s, seconds=seconds, **counts)


# Ray starts for 8 s; 12 s of training; a kill; 6 s until the next attempt; 4 s of recomputed and 6
# s of new steps; 1 s to export the model.
KILLED = [
    at(100.0, "run_started"),
    timed(108.0, 109.0, start_up=1.0),
    at(109.0, "attempt_started"),
    timed(109.0, 120.0, useful=9, data_wait=3.0, useful_step=7.0, checkpoint=0.5, validation=0.5),
    timed(126.0, 126.5, start_up=0.5),
    at(126.5, "attempt_started"),
    timed(126.5, 136.0, useful=6, again=4, recomputed_step=3.5, useful_step=6.0),
    at(136.0, "run_finished"),
    at(137.5, "time", since_s=136.5, until_s=137.5, seconds={"checkpoint": 1.0}),
    at(138.0, "driver_ended"),
]


def test_killed_worker_costs_start_up_and_recomputed_steps() -> None:
    result = add_up(KILLED)
    assert result.seconds == {
        "useful_step": 13.5,
        "recomputed_step": 3.5,
        "checkpoint": 1.5,
        "data_wait": 3.0,
        "start_up": 8.0 + 1.0 + 6.0 + 0.5,
        "resize": 0.0,
        "stalled": 0.0,
        "idle": 1.0,
    }
    assert result.wall_s == 138.0 - 100.0
    assert (result.useful_steps, result.recomputed_steps, result.rows) == (15, 4, 190)
    assert (result.restarts, result.validation_s) == (1, 0.5)
    # An object store returns the logs of several writers one after the other, not by time.
    assert add_up(reversed(KILLED)) == result


def test_time_without_a_driver_is_idle() -> None:
    # A killed driver writes nothing: its time ends with the last record of its workers.
    result = add_up(
        [
            *KILLED[:4],
            at(200.0, "run_started"),
            at(205.0, "attempt_started"),
            at(206.0, "driver_ended"),
        ]
    )
    assert (result.seconds["idle"], result.seconds["start_up"]) == (80.0, 8.0 + 1.0 + 6.0)
    assert result.wall_s == 106.0


def test_start_up_after_a_planned_end_is_resize() -> None:
    records = [
        at(0.0, "run_started"),
        timed(5.0, 20.0, useful=5, useful_step=15.0),
        at(19.0, "resize"),
        timed(25.5, 26.0, start_up=0.5),
        at(26.0, "attempt_started"),
        timed(26.0, 30.0, useful=2, useful_step=4.0),
        at(30.0, "run_finished"),
    ]
    assert add_up(records).seconds == {
        **NOTHING,
        "start_up": 5.0,
        "useful_step": 19.0,
        "resize": 6.0,
    }


def test_waiting_for_resources_is_idle() -> None:
    records = [
        at(0.0, "run_started"),
        at(2.0, "waits_for_resources"),
        timed(30.0, 31.0, start_up=1.0),
    ]
    assert add_up(records).seconds == {**NOTHING, "start_up": 3.0, "idle": 28.0}


def stood_still(since_s: float, until_s: float, rank: int = 1) -> dict[str, Any]:
    return at(until_s, "stood_still", since_s=since_s, until_s=until_s, rank=rank)


STEPS = [
    at(0.0, "run_started"),
    timed(0.0, 10.0, useful=5, data_wait=1.0, useful_step=9.0),
    timed(10.0, 40.0, useful=5, data_wait=1.0, useful_step=28.0, validation=1.0),
    timed(40.0, 50.0, useful=5, data_wait=1.0, useful_step=9.0),
    at(50.0, "driver_ended"),
]


@pytest.mark.parametrize("place", range(len(STEPS) + 1))
def test_standstill_of_a_worker_is_no_useful_step(place: int) -> None:
    # Its report comes before or after the sums of rank 0.
    account = time_account.Account()
    for record in [*STEPS[:place], stood_still(15.0, 35.0), *STEPS[place:]]:
        account.add(record)
    assert account.seconds == {**NOTHING, "stalled": 20.0, "data_wait": 3.0, "useful_step": 27.0}
    assert account.wall_s == 50.0
    assert (account.useful_steps, account.validation_s) == (15, 1.0)


def test_workers_that_stand_still_at_once_stall_the_run_once() -> None:
    reports = [stood_still(15.0, 25.0), stood_still(20.0, 30.0, 0), stood_still(12.0, 31.0, 2)]
    account = add_up([*STEPS, *reports])
    assert account.seconds == {**NOTHING, "stalled": 19.0, "data_wait": 3.0, "useful_step": 28.0}


def test_standstill_over_the_end_of_a_record_counts_in_both() -> None:
    account = add_up([*STEPS, stood_still(38.0, 45.0)])
    assert account.seconds == {**NOTHING, "stalled": 7.0, "data_wait": 3.0, "useful_step": 40.0}


def test_standstill_in_a_wait_for_rows_is_taken_from_it() -> None:
    records = [timed(0.0, 30.0, data_wait=22.0, useful_step=8.0), stood_still(2.0, 22.0)]
    assert add_up(records).seconds == {
        **NOTHING,
        "stalled": 20.0,
        "data_wait": 2.0,
        "useful_step": 8.0,
    }


def test_standstill_in_validation_is_no_validation() -> None:
    account = add_up([timed(0.0, 30.0, validation=22.0, useful_step=8.0), stood_still(2.0, 22.0)])
    assert (account.seconds["useful_step"], account.validation_s) == (10.0, 2.0)
    assert account.wall_s == 30.0


def test_slow_clock_of_another_host_adds_no_time() -> None:
    result = add_up(
        [at(10.0, "run_started"), timed(10.0, 20.0, useful_step=10.0), at(18.0, "driver_ended")]
    )
    assert result.seconds == {**NOTHING, "useful_step": 10.0}


def test_account_without_records_is_zero() -> None:
    assert add_up([]).wall_s == 0.0
    assert time_account.format_lines(add_up([]))[0].startswith("0.0 s: useful step 0.0, ")


def test_format_lines_shows_shares_and_restarts() -> None:
    said = time_account.format_lines(add_up(KILLED))
    assert said == [
        "38.0 s: useful step 13.5 (validation 0.5) 36%, recomputed step 3.5 9%, "
        "checkpoint 1.5 4%, data wait 3.0 8%, start up 15.5 41%, resize 0.0, stalled 0.0, "
        "idle 1.0 3%",
        "workers restarted once: 15 steps, 4 of them done again",
    ]
    assert len(time_account.format_lines(add_up(KILLED[:4]))) == 1


@pytest.mark.parametrize("kind", ["checkpoint", "epoch", "checkpoint_skipped"])
def test_other_events_do_not_change_the_phase(kind: str) -> None:
    records = [at(0.0, "run_started"), at(3.0, kind), at(4.0, "driver_ended")]
    assert add_up(records).seconds == {**NOTHING, "start_up": 4.0}
