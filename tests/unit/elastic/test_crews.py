"""Who trains with whom, as the mailbox of a sweep knows it."""

from __future__ import annotations

import pytest

from raydc.elastic.crews import LEAVE, Crews
from raydc.elastic.mailbox import Mailbox
from raydc.loop.planned_stop import GROW, INTERRUPT, SHRINK


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crews(clock: Clock) -> Crews:
    made = Crews(clock)
    made.begin("trial")
    return made


def form(crews: Crews) -> list[str]:
    return crews.form("trial", "10.0.0.1", 4711)


def test_helper_is_called_into_the_group_that_the_leader_forms(crews: Crews) -> None:
    assert crews.wish("trial") is None
    assert crews.offer("trial", "a", size=2)
    assert crews.call("trial", "a") is None
    assert crews.wish("trial") == GROW
    assert form(crews) == ["a"]
    assert crews.wish("trial") is None
    place = {"host": "10.0.0.1", "port": 4711, "size": 2, "rank": 1}
    assert crews.call("trial", "a") == place
    assert crews.standing()[1]["trial"].members == ("a",)


def test_leader_waits_a_moment_for_all_that_were_announced(crews: Crews, clock: Clock) -> None:
    crews.offer("trial", "a", size=3)
    assert crews.wish("trial") is None
    clock.now_s += 1.0
    crews.offer("trial", "b", size=3)
    assert crews.wish("trial") == GROW
    assert form(crews) == ["a", "b"]
    # The third and the fourth are announced, and only one of them comes.
    crews.offer("trial", "c", size=5)
    for _ in range(5):
        assert crews.wish("trial") is None
        clock.now_s += 1.0
        crews.call("trial", "c")
    assert crews.wish("trial") == GROW


def test_those_who_stay_come_back_after_a_stop_and_keep_their_ranks(crews: Crews) -> None:
    for name in ("a", "b"):
        crews.offer("trial", name, size=3)
    form(crews)
    crews.offer("trial", "c", size=4)
    assert crews.wish("trial") == GROW
    assert not crews.is_mustered("trial")
    crews.offer("trial", "b", size=3)
    # What it knows is the group before.
    assert crews.call("trial", "b") is None
    assert not crews.is_mustered("trial")
    crews.offer("trial", "a", size=3)
    assert crews.is_mustered("trial")
    assert form(crews) == ["b", "a", "c"]


def test_released_helper_leaves_whether_it_trains_or_waits(crews: Crews) -> None:
    crews.offer("trial", "a", size=2)
    form(crews)
    crews.offer("trial", "b", size=3)
    crews.release(["a", "b"])
    assert crews.wish("trial") == SHRINK
    # It comes back after the stop.
    assert not crews.offer("trial", "a", size=2)
    assert crews.call("trial", "b") == LEAVE
    assert crews.is_mustered("trial")
    assert form(crews) == []
    assert crews.take_task("a") == LEAVE
    assert not crews.offer("trial", "a", size=2)


def test_helper_whose_process_is_gone_is_not_waited_for(crews: Crews, clock: Clock) -> None:
    crews.offer("trial", "dead", size=2)
    clock.now_s += 3.0
    assert crews.wish("trial") is None
    crews.offer("trial", "living", size=2)
    assert form(crews) == ["living"]
    # A group that has lost one forms again with those who have come back.
    crews.disband("trial")
    assert crews.is_mustered("trial")
    crews.offer("trial", "living", size=2)
    crews.offer("trial", "told", size=3)
    crews.withdraw("told")
    assert form(crews) == ["living"]


def test_trial_that_starts_again_has_no_helpers_and_one_that_is_over_needs_none(
    crews: Crews,
) -> None:
    crews.offer("trial", "a", size=2)
    form(crews)
    crews.begin("trial")
    assert crews.call("trial", "a") == LEAVE
    assert crews.is_mustered("trial")
    assert not crews.is_mustered("trial", ["gang"])
    crews.offer("trial", "gang", size=2)
    assert crews.is_mustered("trial", ["gang"])
    crews.end("trial")
    assert crews.call("trial", "gang") == LEAVE
    assert not crews.offer("trial", "gang", size=2)
    assert crews.standing()[1] == {}


def lose_groups(crews: Crews, *helpers: str) -> None:
    for _ in range(5):
        for helper in helpers:
            crews.offer("trial", helper, size=2)
        form(crews)
        crews.disband("trial")


def test_trial_that_loses_group_after_group_takes_only_those_it_began_with(crews: Crews) -> None:
    crews.need("trial", ["gang"])
    lose_groups(crews, "gang", "a")
    assert not crews.offer("trial", "a", size=3)
    assert crews.offer("trial", "gang", size=2)
    assert crews.is_mustered("trial", ["gang"])
    assert form(crews) == ["gang"]
    crews.tell_left("trial", 100.0)
    # Nobody else is sent to it.
    assert crews.standing()[1]["trial"].left_s is None


def test_trial_that_is_closed_sends_back_who_waits(crews: Crews) -> None:
    crews.need("trial", ["gang"])
    for helper in ("gang", "a"):
        crews.offer("trial", helper, size=3)
    crews.close("trial")
    assert crews.call("trial", "a") == LEAVE
    assert crews.call("trial", "gang") is None
    assert form(crews) == ["gang"]


def test_helper_that_is_needed_and_silent_is_waited_for(crews: Crews, clock: Clock) -> None:
    crews.offer("trial", "gang", size=2)
    clock.now_s += 3.0
    assert not crews.is_mustered("trial", ["gang"])
    crews.call("trial", "gang")
    assert crews.is_mustered("trial", ["gang"])
    # A mailbox that was made again knows nobody.
    assert not Crews(clock).is_mustered("trial", ["gang"])
    assert Crews(clock).is_mustered("trial")


def test_helper_without_a_task_is_known(crews: Crews) -> None:
    assert crews.take_task("a") is None
    assert crews.standing()[2] == ["a"]
    crews.assign("a", {"key": "trial"})
    assert crews.standing()[2] == []
    assert crews.take_task("a") == {"key": "trial"}
    assert crews.standing()[2] == []


def test_work_that_is_left_passes_with_time_and_is_told_again_by_a_new_group(
    crews: Crews, clock: Clock
) -> None:
    crews.tell_left("trial", 8.0)
    clock.now_s += 3.0
    assert crews.standing()[1]["trial"].left_s == pytest.approx(5.0)
    crews.offer("trial", "a", size=2)
    form(crews)
    assert crews.standing()[1]["trial"].left_s is None
    before = crews.standing()[0]
    for seconds in (0.5, 1.0):
        crews.tell_join(seconds)
    assert before > 0
    assert crews.standing()[0] == pytest.approx(0.75)


def test_mailbox_stops_a_trial_for_its_workers_and_all_for_a_driver_that_ends() -> None:
    mailbox = Mailbox()
    mailbox.enter("trial")
    assert mailbox.stop_reason("trial") is None
    mailbox.of_crews("assign", "a", {"key": "trial"})
    assert mailbox.take_task("a") == {"key": "trial"}
    assert mailbox.take_task("a") is None
    mailbox.of_crews("offer", "trial", "a", 2)
    assert mailbox.stop_reason("trial") == GROW
    mailbox.request_stop(INTERRUPT)
    assert mailbox.stop_reason("trial") == INTERRUPT
    assert mailbox.take_task("a") == LEAVE
    mailbox.leave("trial")
    assert mailbox.of_crews("call", "trial", "a") == LEAVE
