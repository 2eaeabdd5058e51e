"""What a sweep gives Tune to run. The trials are records that this process writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import training_spec

from raydc import spec as specs
from raydc.elastic.trial_ends import TrialEnds
from raydc.elastic.trial_queue import TrialQueue
from raydc.errors import RunError, TrainError
from raydc.search.draws import Draws
from raydc.storage import Storage
from raydc.tracking import events, trials
from raydc.tracking.lease import TakenOverError

PATH = "train.learning_rate"
SCHEDULER = {"name": "asha", "type": "promotion", "reduction_factor": 2}


class RecordedSweep:
    """A sweep of some trials whose accuracies are given, by trial and epoch."""

    def __init__(self, folder: Path, *curves: list[float | None], **sections: Any) -> None:
        space = {PATH: {"choice": [0.1 * (number + 1) for number in range(len(curves))]}}
        sweep = {"space": space, "scheduler": SCHEDULER, **sections.pop("sweep", {})}
        self.spec = training_spec(str(folder), sweep=sweep, **sections)
        self.folder = Storage(str(folder / "sweep"))
        self.curves = curves
        self.lines: list[str] = []
        self.ran: list[tuple[int, int | None]] = []
        # Why this driver may not go on.
        self.lost: Exception | None = None
        self.begin()

    def begin(self, num_trials: int | None = None) -> None:
        """Begins as a driver does, with all trials or the first ones."""
        self.drawn = []
        for number in range(num_trials or len(self.curves)):
            values = {PATH: 0.1 * (number + 1)}
            key = trials.trial_key(specs.to_dict(self.spec), values)
            self.drawn.append({"key": key, "all_values": values})
        draws = Draws(self.drawn)
        ends = TrialEnds(self.spec, self.folder, draws, self.lines.append)
        self.queue = TrialQueue(self.spec, self.folder, draws, ends, None, self.assert_owner)

    def assert_owner(self) -> None:
        if self.lost is not None:
            raise self.lost

    def place(self, number: int) -> Storage:
        return self.folder / "trials" / str(self.drawn[number]["key"])

    def train(self, segment: dict[str, Any]) -> None:
        """Writes what a trial records up to a rung, or to its end."""
        number, until = segment["number"], segment["epochs"]
        self.ran.append((number, until))
        place = self.place(number)
        for epoch in range(len(trials.read_epochs(place)) + 1, 1 + (until or 3)):
            accuracy = self.curves[number][epoch - 1]
            events.EventLog(place, "metrics").write(
                kind="epoch", step=7 * epoch, epoch=epoch, accuracy=accuracy
            )
        if until is None:
            own = trials.trial_spec(self.spec, segment["all_values"])
            trials.mark_ended(place, own, segment["all_values"], trials.FINISHED_FILE)

    def run(self) -> None:
        while (segment := self.queue.next_segment()) is not None:
            self.train(segment)
            self.queue.end(segment)
        assert self.queue.is_over
        self.queue.raise_failed()

    def journal(self) -> list[bytes]:
        names = self.folder.names("journal")
        return [self.folder.read_bytes(f"journal/{name}") for name in names]


CURVES: tuple[list[float | None], ...] = (
    [0.1, 0.2, 0.3],
    [0.5, 0.6, 0.7],
    [0.4, 0.45, 0.4],
    [0.6, 0.5, 0.9],
)


def test_trials_run_from_rung_to_rung_and_are_over_when_it_is_decided(tmp_path: Path) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES)
    sweep.run()
    # Of two trials 1 is the best, of four 3 and 1. At the second rung both have 0.6 as their best.
    assert sorted(sweep.ran, key=str) == sorted(
        [(0, 1), (1, 1), (2, 1), (3, 1), (1, 2), (3, 2), (1, None)], key=str
    )
    ends = [line.split(" ended after ")[1] for line in sweep.lines]
    assert sorted(ends) == [
        "1 epoch(s), best accuracy 0.1000, pruned: place 4 of 4 after 1 epoch, 2 go on: "
        "train.learning_rate=0.1",
        "1 epoch(s), best accuracy 0.4000, pruned: place 3 of 4 after 1 epoch, 2 go on: "
        "train.learning_rate=0.3",
        "2 epoch(s), best accuracy 0.6000, pruned: place 2 of 2 after 2 epochs, 1 go on: "
        "train.learning_rate=0.4",
        "3 epoch(s), best accuracy 0.7000: train.learning_rate=0.2",
    ]
    assert [sweep.place(number).exists(trials.PRUNED_FILE) for number in range(4)] == [
        True,
        False,
        True,
        True,
    ]


def test_next_driver_replays_what_is_recorded_and_runs_the_rest(tmp_path: Path) -> None:
    whole = RecordedSweep(tmp_path / "whole", *CURVES)
    whole.run()
    sweep = RecordedSweep(tmp_path / "cut", *CURVES)
    segments = [sweep.queue.next_segment() for _ in range(4)]
    # The driver dies with two trials trained, of which it has seen one.
    for number in (3, 1):
        sweep.train(segments[number] or {})
    sweep.queue.end(segments[3] or {})
    sweep.begin()
    sweep.run()
    assert sorted(sweep.ran, key=str) == sorted(whole.ran, key=str)
    assert sweep.journal() == whole.journal()
    # A sweep that is complete runs nothing, and says how each trial has ended.
    sweep.lines.clear()
    sweep.begin()
    assert sweep.queue.is_over
    assert len(sweep.lines) == 4


def test_driver_that_lost_the_sweep_begins_nothing_and_records_nothing(tmp_path: Path) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES)
    segments = [sweep.queue.next_segment() or {} for _ in range(3)]
    for segment in segments:
        sweep.train(segment)
    sweep.queue.end(segments[0])
    before, lines = sweep.journal(), list(sweep.lines)
    sweep.lost = TakenOverError("the run was taken over by another process")
    # One that has ended, one that died, and the next one.
    sweep.queue.end(segments[1])
    sweep.queue.lose(segments[2], "the process died")
    assert sweep.queue.next_segment() is None
    assert sweep.queue.is_over
    with pytest.raises(TakenOverError):
        sweep.queue.raise_failed()
    assert sweep.journal() == before
    assert sweep.lines == lines
    assert not any(sweep.place(number).exists(trials.PRUNED_FILE) for number in range(4))


def test_next_segment_waits_for_a_storage_that_answers_as_long_as_a_trial_runs(
    tmp_path: Path,
) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES)
    first = sweep.queue.next_segment() or {}
    sweep.lost = OSError(5, "input/output error")
    assert sweep.queue.next_segment() is None
    sweep.lost = None
    second = sweep.queue.next_segment() or {}
    for segment in (first, second):
        sweep.train(segment)
        sweep.queue.end(segment)
    sweep.run()


def test_trial_that_is_lost_for_good_ends_the_sweep_and_is_tried_by_the_next(
    tmp_path: Path,
) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES)
    for _ in range(4):
        segment = sweep.queue.next_segment()
        assert segment is not None
        if segment["number"] == 1:
            sweep.queue.retry(segment, "ray.exceptions.ActorDiedError: its node has died.")
            sweep.queue.lose(segment, "ray.exceptions.ActorDiedError: its node has died.")
        else:
            sweep.train(segment)
            sweep.queue.end(segment)
    key = sweep.drawn[1]["key"]
    # Trial 3 is the best of four whatever is missing, so it went on; nobody else could.
    with pytest.raises(TrainError, match=rf"1 of 4 trials were lost .* such as {key}") as error:
        sweep.run()
    assert "--resume tries them again" in str(error.value.hint)
    sweep.begin()
    sweep.run()
    whole = RecordedSweep(tmp_path / "whole", *CURVES)
    whole.run()
    assert sweep.journal() == whole.journal()


def test_trial_without_a_record_is_an_error_and_not_run_for_ever(tmp_path: Path) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES)
    segment = sweep.queue.next_segment()
    assert segment is not None
    sweep.queue.end(segment)
    assert sweep.queue.next_segment() is None
    assert sweep.queue.is_over
    with pytest.raises(RunError, match=rf"trial {segment['key']} .* without a record of epoch 1"):
        sweep.queue.raise_failed()


@pytest.mark.parametrize("exact", [True, False])
def test_changed_metric_is_refused_only_where_training_is_exact(
    tmp_path: Path, exact: bool
) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES, train={"exact": exact})
    sweep.run()
    before = sweep.journal()
    content = sweep.place(0).read_bytes("metrics.jsonl")
    assert b'"accuracy":0.1,' in content.replace(b" ", b"")
    sweep.place(0).write_bytes("metrics.jsonl", content.replace(b"0.1,", b"0.2,"))
    if exact:
        with pytest.raises(RunError, match=r"journal/00000002\.json has another decision"):
            sweep.begin()
    else:
        sweep.begin()
        assert sweep.queue.is_over
    assert sweep.journal() == before


def test_sweep_that_has_ended_is_widened_and_not_narrowed(tmp_path: Path) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES)
    sweep.begin(2)
    sweep.run()
    first, ran = sweep.journal(), set(sweep.ran)
    sweep.begin()
    sweep.run()
    assert sweep.journal()[: len(first)] == first
    assert len(set(sweep.ran)) == len(sweep.ran) > len(ran)
    with pytest.raises(RunError, match="this sweep has ended with 4 trials, and there are 2 now"):
        sweep.begin(2)


@pytest.mark.parametrize(
    ("train", "scheduler", "epochs"),
    [
        ({"epochs": 9}, {"name": "asha"}, (1, 3, 9)),
        ({"epochs": 9}, {"name": "asha", "grace_period": 20}, (9,)),
        ({"epochs": 9}, {"name": "fifo"}, (9,)),
        ({"epochs": None, "max_steps": 5}, {"name": "asha"}, (1, 3, 5)),
    ],
    ids=["epochs", "long grace", "fifo", "steps"],
)
def test_rungs_follow_from_the_spec(
    tmp_path: Path, train: dict[str, Any], scheduler: dict[str, Any], epochs: tuple[int, ...]
) -> None:
    sweep = RecordedSweep(tmp_path, *CURVES, train=train, sweep={"scheduler": scheduler})
    segments = [sweep.queue.next_segment() for _ in range(5)]
    until = None if len(epochs) == 1 else epochs[0]
    assert [segment and segment["epochs"] for segment in segments] == [until] * 4 + [None]
    assert segments[4] is None
    line = sweep.journal()[0].decode()
    assert f'"epochs":{list(epochs)}'.replace(" ", "") in line
