"""Where the time went: every second has one name, and they add up to the wall time."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.tracking import time_account
from raydc.tracking.time_account import NAMES, add_up

NOTHING = dict.fromkeys(NAMES, 0.0)


def at(time_s: float, kind: str, **fields: Any) -> dict[str, Any]:
    return {"time_s": time_s, "kind": kind, **fields}


def clocked(
    since_s: float, until_s: float, useful: int = 0, again: int = 0, **seconds: float
) -> dict[str, Any]:
    counts = {
        "step": 0,
        "useful_steps": useful,
        "recomputed_steps": again,
        "rows": 10 * (useful + again),
    }
    return at(until_s + 50.0, "time", since_s=since_s, until_s=until_s, seconds=seconds, **counts)


# Ray needs 8 s; 12 s of training; killed; 6 s until the next attempt; 4 s again, 6 s further; the model takes 1 s.
KILLED = [
    at(100.0, "run_started"),
    clocked(108.0, 109.0, start_up=1.0),
    at(109.0, "attempt_started"),
    clocked(109.0, 120.0, useful=9, data_wait=3.0, useful_step=7.0, checkpoint=0.5, validation=0.5),
    clocked(126.0, 126.5, start_up=0.5),
    at(126.5, "attempt_started"),
    clocked(126.5, 136.0, useful=6, again=4, recomputed_step=3.5, useful_step=6.0),
    at(136.0, "run_finished"),
    at(137.5, "time", since_s=136.5, until_s=137.5, seconds={"checkpoint": 1.0}),
    at(138.0, "driver_ended"),
]


def test_a_killed_worker() -> None:
    result = add_up(KILLED)
    assert result.seconds == {
        "useful_step": 13.5,
        "recomputed_step": 3.5,
        "checkpoint": 1.5,
        "data_wait": 3.0,
        "start_up": 8.0 + 1.0 + 6.0 + 0.5,
        "resize": 0.0,
        "idle": 1.0,
    }
    assert result.wall_s == 138.0 - 100.0
    assert (result.useful_steps, result.recomputed_steps, result.rows) == (15, 4, 190)
    assert (result.restarts, result.validation_s) == (1, 0.5)
    # Logs of several writers come one after the other from an object store.
    assert add_up(reversed(KILLED)) == result


def test_the_time_without_a_driver_is_idle() -> None:
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


def test_a_resize_is_told_from_a_start() -> None:
    records = [
        at(0.0, "run_started"),
        clocked(5.0, 20.0, useful=5, useful_step=15.0),
        at(19.0, "resize"),
        clocked(25.5, 26.0, start_up=0.5),
        at(26.0, "attempt_started"),
        clocked(26.0, 30.0, useful=2, useful_step=4.0),
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
        clocked(30.0, 31.0, start_up=1.0),
    ]
    assert add_up(records).seconds == {**NOTHING, "start_up": 3.0, "idle": 28.0}


def test_clocks_of_two_hosts_do_not_turn_time_back() -> None:
    result = add_up(
        [at(10.0, "run_started"), clocked(10.0, 20.0, useful_step=10.0), at(18.0, "driver_ended")]
    )
    assert result.seconds == {**NOTHING, "useful_step": 10.0}


def test_a_run_without_records_has_no_time() -> None:
    assert add_up([]).wall_s == 0.0
    assert time_account.lines(add_up([]))[0].startswith("0.0 s: useful step 0.0, ")


def test_lines() -> None:
    said = time_account.lines(add_up(KILLED))
    assert said == [
        "38.0 s: useful step 13.5 (validation 0.5) 36%, recomputed step 3.5 9%, checkpoint 1.5 4%, data wait 3.0 8%, "
        "start up 15.5 41%, resize 0.0, idle 1.0 3%",
        "workers started again once: 15 steps, 4 of them done again",
    ]
    assert len(time_account.lines(add_up(KILLED[:4]))) == 1


@pytest.mark.parametrize("kind", ["checkpoint", "epoch", "checkpoint_skipped"])
def test_other_events_only_move_time_on(kind: str) -> None:
    records = [at(0.0, "run_started"), at(3.0, kind), at(4.0, "driver_ended")]
    assert add_up(records).seconds == {**NOTHING, "start_up": 4.0}
