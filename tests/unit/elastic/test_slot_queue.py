"""Which slots trials get, and who joins whom: the decisions, without Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from training import training_spec

from raydc import spec as specs
from raydc.elastic.crews import Standing
from raydc.elastic.slot_queue import SlotQueue
from raydc.elastic.sweep_table import RUNS, SweepStanding, TrialStanding
from raydc.errors import SpecError
from raydc.plan import CrewSize, crew_size


class ScriptedTrials:
    """A queue of trials that a test opens."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.ended: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.is_over = False

    def next_segment(self) -> dict[str, Any] | None:
        if not self.open:
            return None
        number = self.open.pop(0)
        return {"key": f"t{number}", "all_values": {"n": number}, "number": number, "epochs": 3}

    def end(self, segment: dict[str, Any]) -> None:
        self.ended.append(segment["key"])

    def lose(self, segment: dict[str, Any], error: str) -> None:
        self.told.append(("lose", segment["key"]))

    def retry(self, segment: dict[str, Any], error: str) -> None:
        self.told.append(("retry", segment["key"]))

    def standing(self) -> SweepStanding:
        running = [TrialStanding(number, {}, RUNS, 0, None, "to epoch 3") for number in range(2)]
        return SweepStanding(running, 2, 0, 6.0)

    def raise_failed(self) -> None:
        """Nothing has failed."""


@dataclass
class ScriptedBox:
    """What the trials say, and what the driver has told."""

    left_s: dict[str, float] = field(default_factory=dict)
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    assigned: list[tuple[str, str]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    join_s: float = 1.0
    idle: list[str] = field(default_factory=list)

    def standing(self) -> tuple[float, dict[str, Standing], list[str]]:
        found = {
            key: Standing(left_s, self.members.get(key, ())) for key, left_s in self.left_s.items()
        }
        return self.join_s, found, self.idle

    def assign(self, helper: str, task: dict[str, Any]) -> None:
        self.assigned.append((helper, task["key"]))

    def release(self, helpers: Iterable[str]) -> None:
        self.released += helpers

    def withdraw(self, helper: str) -> None:
        """Whoever is lost is forgotten."""


class Slots:
    """A sweep on some slots, whose clock a test moves."""

    def __init__(
        self, slots: int, least: int = 1, most: int = 4, most_trials: int | None = None
    ) -> None:
        self.trials, self.box, self.slots, self.now_s = ScriptedTrials(), ScriptedBox(), slots, 0.0
        self.lines: list[str] = []
        self.queue = SlotQueue(
            self.trials,  # type: ignore[arg-type]
            CrewSize(least, most, shards=4),
            lambda: self.slots,
            self.box,
            most_trials,
            self.lines.append,
            lambda: self.now_s,
        )

    def begin(self, *numbers: int, left_s: float = 100.0) -> list[dict[str, Any]]:
        """Opens trials, which get their slots and say how much is left to do."""
        self.trials.open += numbers
        found = []
        for number in numbers:
            segment = self.queue.next_segment()
            assert segment is not None
            self.queue.start(segment)
            self.box.left_s[f"t{number}"] = left_s
            found.append(segment)
        return found

    def ask(self) -> dict[str, Any] | None:
        """Asks once more, half a second later."""
        self.now_s += 0.5
        return self.queue.next_segment()

    def wait(self) -> None:
        """Asks for twenty seconds, in which nothing may run."""
        for _ in range(41):
            assert self.ask() is None

    def helpers(self, number: int) -> list[str]:
        """As many helpers as are wanted, all in their slots; they have joined."""
        found: list[str] = []
        for _ in range(number):
            segment = self.ask()
            assert segment is not None
            assert segment["helper"] not in found
            self.queue.start(segment)
            found.append(segment["helper"])
            self.join(segment["helper"], segment["task"]["key"])
        return found

    def join(self, helper: str, key: str) -> None:
        self.box.members[key] = (*self.box.members.get(key, ()), helper)


def test_idle_slot_helps_the_trial_that_is_done_last() -> None:
    sweep = Slots(3)
    sweep.begin(0, left_s=20.0)
    sweep.begin(1, left_s=90.0)
    helper = sweep.ask()
    assert helper is not None
    assert helper["task"] == {"key": "t1", "all_values": {"n": 1}, "epochs": 3, "size": 2}
    # There is no other slot, and the trial is one whose workers change.
    assert sweep.ask() is None
    assert sweep.queue.standing().trials[0].why == "to epoch 3"
    assert sweep.queue.standing().trials[1].why == "to epoch 3, 2 workers"


def test_no_slot_helps_while_a_trial_waits_for_one() -> None:
    sweep = Slots(4)
    sweep.begin(0)
    sweep.trials.open = [1]
    waiting = sweep.queue.next_segment()
    assert waiting is not None
    assert waiting["key"] == "t1"
    assert sweep.ask() is None
    sweep.queue.start(waiting)
    assert sweep.ask() is not None


def test_trial_that_may_run_takes_the_slot_of_a_helper() -> None:
    sweep = Slots(4)
    sweep.begin(0, left_s=50.0)
    sweep.begin(1, left_s=60.0)
    first, second = sweep.helpers(2)
    assert sorted(sweep.box.members) == ["t0", "t1"]
    sweep.trials.open = [2]
    segment = sweep.queue.next_segment()
    assert segment is not None
    assert segment["key"] == "t2"
    # It has joined the trial that is done first, which loses least.
    (of_first,) = sweep.box.members["t0"]
    assert sweep.box.released == [of_first]
    # It leaves, and the other one goes on.
    sweep.queue.end({"helper": of_first})
    assert sweep.ask() is None
    assert sweep.box.released == [of_first]
    assert {first, second} > {of_first}


def test_helper_that_is_free_in_a_moment_is_not_sent_away() -> None:
    sweep = Slots(2)
    (trial,) = sweep.begin(0, left_s=50.0)
    (helper,) = sweep.helpers(1)
    sweep.box.left_s["t0"] = 0.4
    sweep.trials.open = [1]
    assert sweep.ask() is not None
    assert sweep.box.released == []
    # Once the trial has ended, its helper costs nothing.
    sweep.queue.end(trial)
    assert sweep.trials.ended == ["t0"]
    assert sweep.ask() is None
    assert sweep.box.released == []
    sweep.slots = 1
    assert sweep.ask() is None
    assert sweep.box.released == [helper]


def test_helper_goes_from_one_trial_to_the_next_without_a_new_process() -> None:
    sweep = Slots(3)
    first, second = sweep.begin(0, 1, left_s=50.0)
    (helper,) = sweep.helpers(1)
    key = next(iter(sweep.box.members))
    ended, other = (first, "t1") if key == "t0" else (second, "t0")
    sweep.queue.end(ended)
    del sweep.box.left_s[key]
    joining = sweep.ask()
    assert sweep.box.assigned == [(helper, other)]
    # The slot of the trial that has ended is free, and three are no faster than two.
    assert joining is None


def test_helper_without_a_trial_gives_its_slot_back_after_a_while() -> None:
    sweep = Slots(2)
    (trial,) = sweep.begin(0)
    (helper,) = sweep.helpers(1)
    sweep.queue.end(trial)
    sweep.box.left_s.clear()
    assert sweep.ask() is None
    assert sweep.box.released == []
    sweep.now_s += 10.0
    assert sweep.ask() is None
    assert sweep.box.released == [helper]


def test_sweep_that_is_over_sends_all_away() -> None:
    sweep = Slots(2)
    (trial,) = sweep.begin(0)
    (helper,) = sweep.helpers(1)
    sweep.queue.end(trial)
    sweep.trials.is_over = True
    assert sweep.ask() is None
    assert sweep.box.released == [helper]


def test_nobody_joins_for_little_work_or_a_trial_that_says_nothing() -> None:
    sweep = Slots(4)
    sweep.begin(0, left_s=3.0)
    assert sweep.ask() is None
    del sweep.box.left_s["t0"]
    assert sweep.ask() is None
    sweep.box.left_s["t0"] = 30.0
    assert sweep.ask() is not None


def test_most_workers_are_asked_for_together() -> None:
    sweep = Slots(4)
    sweep.begin(0, left_s=500.0)
    found = [sweep.queue.next_segment() for _ in range(4)]
    sizes = [one and one["task"]["size"] for one in found]
    assert sizes == [4, 4, 4, None]


def test_limit_of_trials_at_a_time_leaves_slots_for_helpers() -> None:
    sweep = Slots(2, most_trials=1)
    sweep.begin(0)
    sweep.trials.open = [1]
    helper = sweep.ask()
    assert helper is not None
    assert helper["task"]["key"] == "t0"
    assert sweep.trials.open == [1]


@pytest.mark.parametrize("most_trials", [None, 3])
def test_trials_wait_one_by_one_or_as_many_as_are_allowed(most_trials: int | None) -> None:
    sweep = Slots(1, most_trials=most_trials)
    sweep.trials.open = [0, 1, 2, 3]
    found = [sweep.queue.next_segment() for _ in range(4)]
    assert sum(one is not None for one in found) == (most_trials or 1)


def test_every_open_trial_runs_though_helpers_have_all_other_slots() -> None:
    sweep = Slots(4)
    (trial,) = sweep.begin(0, left_s=500.0)
    sweep.helpers(3)
    sweep.trials.open = [1, 2, 3]
    for number in (1, 2, 3):
        segment = sweep.ask()
        assert segment is not None
        assert segment["key"] == f"t{number}"
        assert len(sweep.box.released) == number
        sweep.queue.end({"helper": sweep.box.released[-1]})
        sweep.queue.start(segment)
        assert len({*sweep.box.released}) == number
    sweep.queue.end(trial)
    assert sweep.trials.ended == ["t0"]


def test_lost_helper_is_replaced_until_one_trial_has_lost_three() -> None:
    sweep = Slots(2)
    sweep.begin(0, left_s=500.0)
    for _ in range(3):
        (helper,) = sweep.helpers(1)
        sweep.queue.retry({"helper": helper}, "its node has died")
        sweep.box.members["t0"] = ()
        # Tune starts it again, and it ends at once.
        assert sweep.box.released[-1] == helper
        sweep.queue.end({"helper": helper})
    assert sweep.lines == ["sweep     trial 0 has lost a worker that had joined, and goes on"] * 3
    assert sweep.trials.told == []
    assert sweep.ask() is None


def test_trial_that_is_tried_again_gets_the_slots_of_its_helpers() -> None:
    sweep = Slots(2)
    (trial,) = sweep.begin(0, left_s=500.0)
    (helper,) = sweep.helpers(1)
    sweep.queue.retry(trial, "its process has died")
    assert sweep.box.released == [helper]
    assert sweep.trials.told == [("retry", "t0")]
    assert sweep.ask() is None
    sweep.queue.lose(trial, "its process has died")
    assert sweep.trials.told[-1] == ("lose", "t0")


def test_helper_of_a_trial_that_is_given_up_waits_for_nobody() -> None:
    sweep = Slots(2)
    (trial,) = sweep.begin(0, left_s=500.0)
    (helper,) = sweep.helpers(1)
    # Its leader was killed, and cannot say that it is over.
    sweep.queue.lose(trial, "its process has died")
    assert sweep.box.released == [helper]


def test_helper_that_its_trial_has_sent_back_may_join_another_one() -> None:
    sweep = Slots(3)
    sweep.begin(0, 1, left_s=500.0)
    (helper,) = sweep.helpers(1)
    (key,) = sweep.box.members
    # The trial has lost a group, and takes no more helpers.
    sweep.box.members[key] = ()
    del sweep.box.left_s[key]
    sweep.box.idle = [helper]
    assert sweep.ask() is None
    (other,) = {"t0", "t1"} - {key}
    assert sweep.box.assigned == [(helper, other)]


def test_helper_is_told_again_to_leave_because_a_mailbox_that_dies_forgets() -> None:
    sweep = Slots(2)
    sweep.begin(0, left_s=50.0)
    (helper,) = sweep.helpers(1)
    sweep.trials.open = [1]
    assert sweep.ask() is not None
    assert sweep.box.released == [helper]
    for _ in range(20):
        assert sweep.ask() is None
    assert sweep.box.released == [helper] * 3


def test_trial_that_waits_for_long_gets_the_slot_of_a_helper_though_there_seems_to_be_room() -> (
    None
):
    # Another job has four of these slots.
    sweep = Slots(8)
    sweep.begin(0, left_s=500.0)
    helpers = sweep.helpers(3)
    sweep.trials.open = [1]
    segment = sweep.ask()
    assert segment is not None
    assert sweep.box.released == []
    sweep.wait()
    assert sweep.box.released == helpers[-1:]
    sweep.queue.end({"helper": helpers[-1]})
    sweep.queue.start(segment)
    # It does not count for the next one.
    sweep.trials.open = [2]
    assert sweep.ask() is not None
    assert sweep.ask() is None
    assert sweep.box.released == helpers[-1:]


def test_trial_waits_neither_for_a_leader_that_hangs_nor_for_a_helper_that_does() -> None:
    sweep = Slots(4)
    sweep.begin(0, left_s=500.0)
    _, second, third = sweep.helpers(3)
    # The leader has said that it is done in a moment, and never is.
    sweep.box.left_s["t0"] = 0.0
    sweep.trials.open = [1]
    assert sweep.ask() is not None
    assert sweep.box.released == []
    sweep.wait()
    assert {*sweep.box.released} == {third}
    # This one never leaves.
    sweep.wait()
    assert {*sweep.box.released} == {second, third}


def test_trials_of_two_workers_begin_together_and_idle_ones_join_in_twos() -> None:
    sweep = Slots(4, least=2)
    segment = sweep.begin(0, left_s=500.0)[0]
    assert (segment["least"], segment["most"]) == (2, 4)
    sweep.box.members["t0"] = ("gang",)
    found = [sweep.ask() for _ in range(3)]
    assert [one and one["task"]["size"] for one in found] == [4, 4, None]


@pytest.mark.parametrize(
    ("workers", "sections", "expected"),
    [
        (1, {}, CrewSize(1, 1, 1)),
        (0, {}, CrewSize(1, 1, 1)),
        (3, {}, CrewSize(3, 3, 3)),
        ({"min": 1, "max": 4}, {}, CrewSize(1, 4, 4)),
        ({"min": 1, "max": 4}, {"logical_shards": 8}, CrewSize(1, 4, 8)),
        ({"min": 2, "max": 4}, {"exact": False}, CrewSize(2, 2, 4)),
    ],
)
def test_workers_of_a_trial_follow_from_the_spec(
    workers: Any, sections: dict[str, Any], expected: CrewSize
) -> None:
    spec = training_spec("store", scaling={"num_workers": workers}, train=sections)
    assert crew_size(spec) == expected


def test_nobody_joins_on_the_same_gpu() -> None:
    shared = {"num_workers": {"min": 1, "max": 4}, "resources_per_worker": {"GPU": 0.5}}
    space = {"train.learning_rate": {"choice": [0.1, 0.2]}}
    trial = training_spec("store", scaling=shared, sweep={"space": space})
    assert crew_size(trial) == CrewSize(1, 1, 4)
    # Two of these have no room on one GPU.
    shared["resources_per_worker"] = {"GPU": 0.6}
    assert crew_size(training_spec("store", scaling=shared)) == CrewSize(1, 4, 4)


def test_trial_of_two_workers_on_one_gpu_is_refused() -> None:
    shared = {"num_workers": {"min": 2, "max": 4}, "resources_per_worker": {"GPU": 0.5}}
    space = {"train.learning_rate": {"choice": [0.1, 0.2]}}
    made = training_spec("store", scaling=shared, sweep={"space": space})
    text = yaml.safe_dump(specs.to_dict(made))
    with pytest.raises(SpecError, match=r"0.5 GPU for each of 2 workers puts 2 of them on one GPU"):
        specs.loads(text)
    # One worker each, which no other one joins.
    specs.loads(text.replace("min: 2", "min: 1"))
