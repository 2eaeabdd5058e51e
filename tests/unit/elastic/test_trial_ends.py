"""What is said, recorded and kept of trials that end. The trials are trained in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc import spec as specs
from raydc import train
from raydc.checkpoint.store import CheckpointStore
from raydc.data.prepared import load
from raydc.elastic.trial_ends import TrialEnds
from raydc.loop import planned_stop, worker
from raydc.loop.hooks import Hooks
from raydc.loop.planned_stop import PlannedStopError
from raydc.search.draws import Draws
from raydc.storage import Storage
from raydc.tracking import trials

PATH = "train.learning_rate"
# The second is the best of those that finish.
RATES = {"slow": 1e-5, "good": 1e-2, "pruned": 1e-6, "lost": 2e-5, "failing": 1e-7}
DIED = """Failure # 1 (occurred at 2026-01-01_00-00-00)
Traceback (most recent call last):
  File "x.py", line 3, in y
ray.exceptions.ActorDiedError: The actor died because its node has died.
  class_name: ImplicitFunc
"""


class SweptTrials:
    """Trials with all their checkpoints, and the object under test."""

    def __init__(self, folder: Path) -> None:
        self.data = load(write_pictures(Storage(str(folder / "data"))))
        space = {PATH: {"choice": list(RATES.values())}}
        self.spec = training_spec(str(folder), sweep={"space": space})
        self.folder = Storage(str(folder / "sweep"))
        self.drawn: dict[str, dict[str, Any]] = {}
        for name, rate in RATES.items():
            values = {PATH: rate}
            key = trials.trial_key(specs.to_dict(self.spec), values)
            self.drawn[name] = {"key": key, "all_values": values}
        self.lines: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Begins as a driver does."""
        draws = Draws(list(self.drawn.values()))
        self.ends = TrialEnds(self.spec, self.folder, draws, self.lines.append)

    def place(self, name: str) -> Storage:
        return self.folder / "trials" / str(self.drawn[name]["key"])

    def train(self, name: str, until: int = 3) -> None:
        """Trains a trial to its end, or as far as a scheduler lets it."""
        values, place = self.drawn[name]["all_values"], self.place(name)
        own = trials.trial_spec(self.spec, values)

        def stop(record: dict[str, Any]) -> None:
            if record["epoch"] == until:
                raise PlannedStopError(planned_stop.RUNG, record["step"])

        try:
            worker.fit(own, place, self.data.folder, hooks=Hooks(on_epoch=stop))
        except PlannedStopError:
            return
        trials.mark_ended(place, own, values, trials.FINISHED_FILE)

    def steps(self, name: str) -> list[int]:
        return CheckpointStore(self.place(name) / "checkpoints", 1).steps()


@pytest.fixture
def swept(tmp_path: Path) -> SweptTrials:
    return SweptTrials(tmp_path)


def test_finished_sweep_has_three_checkpoints_at_most_and_curves_of_all(swept: SweptTrials) -> None:
    for name in RATES:
        swept.train(name, until=1 if name in ("pruned", "lost") else 3)
    trials.mark_failed(swept.place("failing"), {}, "ValueError: no", "page")
    swept.place("failing").delete(trials.FINISHED_FILE)
    before = {name: swept.steps(name) for name in RATES}
    assert min(map(len, before.values())) >= 2

    swept.ends.add(swept.drawn["slow"])
    swept.ends.add(swept.drawn["pruned"])
    # It may still be writing, and the leader may yet be beaten.
    assert {name: swept.steps(name) for name in RATES} == before
    swept.ends.add(swept.drawn["good"])
    assert (swept.steps("slow"), swept.steps("pruned")) == ([], [])
    assert swept.steps("good") == before["good"]
    swept.ends.add(swept.drawn["failing"])
    swept.ends.add(swept.drawn["lost"], DIED)

    ended = swept.ends.all()
    winner = trials.pick_winner(ended, "max")
    assert winner.key == swept.drawn["good"]["key"]
    states = dict(zip(RATES, (trial.state for trial in ended), strict=True))
    assert states == {
        "slow": "finished",
        "good": "finished",
        "pruned": "pruned",
        "lost": "failed",
        "failing": "failed",
    }
    folder, own = swept.place("good"), trials.trial_spec(swept.spec, winner.values)
    model = Storage(swept.folder.uri + "-model")
    found = train.export(own, swept.data, folder, model, print)
    swept.ends.drop_checkpoints(winner, found)
    kept = {name: swept.steps(name) for name in RATES}
    assert 1 <= len(kept["good"]) <= 3
    # `--resume` goes on with the trial that lost its node.
    assert {name for name in RATES if kept[name]} == {"good", "lost"}
    assert kept["lost"] == before["lost"]
    assert [len(trials.read_epochs(swept.place(name))) for name in RATES] == [3, 3, 1, 1, 3]

    # The next driver finds the same winner and makes the same model of it.
    swept.begin()
    for name in ("slow", "good", "pruned"):
        swept.ends.add(swept.drawn[name])
    assert swept.ends.all()[:3] == ended[:3]
    again = train.export(own, swept.data, folder, model, print)
    assert (again.step, again.files) == (found.step, found.files)


def test_each_end_of_a_trial_is_one_line(swept: SweptTrials) -> None:
    swept.train("good")
    swept.ends.add(swept.drawn["good"])
    trials.mark_failed(swept.place("failing"), {}, "ValueError: width 3 does not fit", "page")
    swept.ends.add(swept.drawn["failing"])
    swept.ends.retry(swept.drawn["lost"], DIED)
    swept.ends.add(swept.drawn["lost"], DIED)
    swept.ends.add(swept.drawn["slow"], "")
    said, rest = swept.lines[0], swept.lines[1:]
    assert said.startswith("sweep     1 of 5 ended after 3 epoch(s), best accuracy ")
    died = "ActorDiedError: The actor died because its node has died."
    assert rest == [
        f"sweep     2 of 5 failed: ValueError: width 3 does not fit: {PATH}=1e-07",
        f"sweep     a trial is tried again after {died}: {PATH}=2e-05",
        f"sweep     3 of 5 failed: {died}: {PATH}=2e-05",
        f"sweep     4 of 5 failed: an unknown error: {PATH}=1e-05",
    ]
    # What Ray says of a process that died has ten lines' length.
    swept.ends.retry(swept.drawn["slow"], DIED.replace("has died.", "has died. " + 90 * "Why. "))
    assert swept.lines[-1].startswith(f"sweep     a trial is tried again after {died} Why. ")
    assert swept.lines[-1].endswith(f"Why. ...: {PATH}=1e-05")
    assert len(swept.lines[-1]) < 240
