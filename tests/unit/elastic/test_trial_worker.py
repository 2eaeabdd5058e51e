"""A trial of a sweep in this process: where it stops, and what is recorded of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray import tune
from training import training_spec, weights_hash, write_pictures

from raydc import spec as specs
from raydc.checkpoint.store import CheckpointStore
from raydc.elastic import mailbox, trial_worker
from raydc.elastic.trial_worker import SweepPlace
from raydc.elastic.worker_failure import WorkerFailure
from raydc.errors import CheckpointError, SpecError, TrainError
from raydc.loop import worker
from raydc.loop.validation import compute_scores
from raydc.storage import Storage
from raydc.tracking import events, lease, trials
from raydc.tracking.attempt_fence import AttemptFence, ReplacedError

VALUES = {"train.learning_rate": 0.02}


class TrialHere:
    """A trial that runs in this process, and what it has told Tune."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self._data = write_pictures(Storage(str(folder / "data")))
        self.spec = training_spec(str(folder), **sections)
        self.sweep = Storage(str(folder / "sweep"))
        self._key = trials.trial_key(specs.to_dict(self.spec), VALUES)
        self.folder = self.sweep / "trials" / self._key
        # Of its driver; None for one that owns the run.
        self.claim: lease.Claim | None = None
        self.told: list[int] = []
        # Whether the trial had its record when Tune was told.
        self.had_ended: list[bool] = []

    def report(self, metrics: dict[str, Any]) -> None:
        """Takes the place of `tune.report`."""
        self.told.append(metrics["epoch"])
        self.had_ended.append(trials.has_ended(self.folder))

    def run(self, until: int | None = None) -> None:
        """Runs the trial up to an epoch, or to its end."""
        silent = SimpleNamespace(remote=lambda *_: None)
        handle = SimpleNamespace(enter=silent, leave=silent, stop_reason=silent)
        config = {"segment": {"key": self._key, "all_values": VALUES, "epochs": until}}
        plain, data, sweep = specs.to_dict(self.spec), self._data.uri, self.sweep.uri
        with lease.hold(self.sweep) as claim:
            place = SweepPlace(plain, data, sweep, "/none", self.claim or claim)
            trial_worker.run_trial(config, place, handle)

    def rungs(self, *epochs: int) -> dict[int, float | None]:
        """What the sweep compares of it."""
        return trials.rung_metrics(self.spec, self.folder, epochs)

    def accuracy(self) -> list[float]:
        """Of each epoch."""
        return [record["accuracy"] for record in trials.read_epochs(self.folder)]


@pytest.fixture
def make_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrialHere]:
    monkeypatch.setattr(mailbox, "get_reply", lambda reply: reply)

    def make(**sections: Any) -> TrialHere:
        trial = TrialHere(tmp_path, **sections)
        monkeypatch.setattr(tune, "report", trial.report)
        return trial

    return make


@pytest.mark.parametrize(
    ("train", "epochs"),
    [
        ({"epochs": 1}, 1),
        ({"epochs": None, "max_steps": 1}, 1),
        ({"epochs": 9, "early_stop": {"patience": 1, "min_delta": 1.0}}, 2),
        ({"epochs": 3}, 3),
    ],
    ids=["one epoch", "one step", "early stop", "three epochs"],
)
def test_trial_is_told_once_it_is_recorded_as_finished(
    make_trial: Callable[..., TrialHere], train: dict[str, Any], epochs: int
) -> None:
    trial = make_trial(train=train)
    trial.run()
    assert trial.told == [epochs]
    assert trial.had_ended == [True]
    # Its best epoch counts, at rungs behind its end as well.
    best = max(trial.accuracy())
    assert trial.rungs(1, 20, 30) == {0: trial.accuracy()[0], 1: best, 2: best}
    # Another driver reads the same, and trains nothing.
    before = trial.folder.read_bytes("events.jsonl")
    trial.run()
    assert trial.told == [epochs] * 2
    assert trial.folder.read_bytes("events.jsonl") == before


def test_trial_stops_at_each_rung_and_goes_on_from_its_checkpoint(
    make_trial: Callable[..., TrialHere], tmp_path: Path
) -> None:
    whole = make_trial(train={"epochs": 3})
    whole.run()
    expected = weights_hash(whole.folder, 21)
    whole.folder.delete()

    trial = make_trial(train={"epochs": 3})
    trial.run(until=1)
    assert len(trials.read_epochs(trial.folder)) == 1
    assert not trials.has_ended(trial.folder)
    assert not trials.is_failed(trial.folder)
    assert CheckpointStore(trial.folder / "checkpoints", 1).steps()[-1] == 7
    assert trial.rungs(1, 2, 3) == {0: trial.accuracy()[0]}
    trial.run(until=2)
    assert trial.rungs(1, 2, 3) == {0: trial.accuracy()[0], 1: max(trial.accuracy())}
    trial.run()
    assert trial.told == [1, 2, 3]
    assert trial.rungs(1, 2, 3)[2] == max(trial.accuracy())
    # Nothing is trained twice, and it is the model of a trial that never stopped.
    starts = [
        record for record in events.read(trial.folder, "metrics") if record["kind"] == "start"
    ]
    assert [record["step"] for record in starts] == [0, 7, 14]
    assert weights_hash(trial.folder, 21) == expected


def test_trial_that_crashed_after_its_last_epoch_is_finished_by_the_next_driver(
    make_trial: Callable[..., TrialHere],
) -> None:
    trial = make_trial(train={"epochs": 3})
    trial.run()
    trial.folder.delete(trials.FINISHED_FILE)
    # Its model may not be written, so that it has no result yet.
    assert 2 not in trial.rungs(1, 2, 3)
    trial.run()
    assert trial.folder.exists(trials.FINISHED_FILE)
    assert trial.rungs(1, 2, 3)[2] == max(trial.accuracy())


def test_pruned_trial_goes_on_when_a_wider_sweep_wants_it(
    make_trial: Callable[..., TrialHere],
) -> None:
    trial = make_trial(train={"epochs": 3})
    trial.run(until=1)
    trials.mark_ended(trial.folder, trial.spec, VALUES, trials.PRUNED_FILE)
    # Whoever stays behind loses its checkpoints.
    (trial.folder / "checkpoints").delete()
    first = trial.accuracy()
    trial.run()
    assert trial.folder.exists(trials.FINISHED_FILE)
    assert not trial.folder.exists(trials.PRUNED_FILE)
    assert trial.accuracy()[:1] == first
    assert len(trial.accuracy()) == 3


def raising(error: Exception) -> Callable[..., None]:
    def fit(*_: object, **__: object) -> None:
        raise error

    return fit


@pytest.mark.parametrize(
    "error",
    [
        ValueError("width 3 does not fit"),
        TrainError("the loss is nan at step 1"),
        SpecError([]),
        FileNotFoundError(errno.ENOENT, "no such file", "/words.txt"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_that_would_come_again_is_recorded_and_tune_tries_no_more(
    make_trial: Callable[..., TrialHere], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trial = make_trial(train={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(worker, "fit", raising(error))
        trial.run()
    assert trials.is_failed(trial.folder)
    # Tune wants to know something of each trial.
    assert trial.told == [0]
    record = trial.folder.read_json(trials.FAILED_FILE)
    assert record["error"].startswith(type(error).__name__)
    if isinstance(error, ValueError):
        assert record["error"] == "ValueError: width 3 does not fit"
        assert "in fit" in "".join(record["page"])
    # That is its result, in the journal of the sweep: no driver tries it again.
    assert trial.rungs(1, 3) == {0: None, 1: None}
    trial.run()
    assert trials.is_failed(trial.folder)
    assert trials.read_epochs(trial.folder) == []


def test_trial_that_has_begun_again_elsewhere_is_no_failure(
    make_trial: Callable[..., TrialHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(train={"epochs": 2})

    def lose_the_trial(*arguments: Any) -> Any:
        # Its own driver has begun it again.
        with lease.hold(trial.sweep) as claim:
            AttemptFence(trial.folder, claim).claim()
        return compute_scores(*arguments)

    # This process did not respond for a while.
    monkeypatch.setattr("raydc.loop.worker.compute_scores", lose_the_trial)
    with pytest.raises(ReplacedError):
        trial.run()
    assert not trials.is_failed(trial.folder)
    assert trial.rungs(1, 2) == {}


def contents(folder: Storage) -> dict[str, bytes]:
    """The files of a folder and their contents, but for those of the time account."""
    root = folder.local_path
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_trial_that_starts_after_its_driver_lost_the_sweep_writes_nothing(
    make_trial: Callable[..., TrialHere],
) -> None:
    trial = make_trial(train={"epochs": 3})
    trial.run(until=1)
    trials.mark_ended(trial.folder, trial.spec, VALUES, trials.PRUNED_FILE)
    before = contents(trial.folder)
    trial.claim = lease.Claim(trial.sweep, "of a driver that was suspended")
    trial.run()
    assert contents(trial.folder) == before
    # Tune is content, and tries it no more.
    assert trial.told == [1, 1]


def take_over(sweep: Storage) -> None:
    """Takes the place of a driver that has taken over a sweep."""
    driver = lease.read_driver(sweep)
    assert driver is not None
    sweep.write_json(lease.FILE, asdict(replace(driver, token="another")))


def moved_file() -> FileNotFoundError:
    """The error of a trial one of whose files another driver has moved."""
    return FileNotFoundError(errno.ENOENT, "no such file", "events.jsonl")


@pytest.mark.parametrize("fails", [False, True])
def test_trial_whose_driver_loses_the_sweep_stops_without_a_record_of_it(
    make_trial: Callable[..., TrialHere], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    # No checkpoint is being written in another thread when the sweep is lost.
    trial = make_trial(train={"epochs": 3}, checkpoint={"every_steps": 100})
    before: list[dict[str, bytes]] = []

    def lose_the_sweep(*arguments: Any) -> Any:
        if not before:
            take_over(trial.sweep)
            before.append(contents(trial.folder))
            if fails:
                raise moved_file()
        return compute_scores(*arguments)

    monkeypatch.setattr("raydc.loop.worker.compute_scores", lose_the_sweep)
    trial.run()
    assert contents(trial.folder) == before[0]
    assert len(trial.told) == 1


def test_trial_that_cannot_start_because_another_driver_moved_its_files_has_not_failed(
    make_trial: Callable[..., TrialHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(train={"epochs": 3})

    def fit(*_: object, **__: object) -> None:
        take_over(trial.sweep)
        raise moved_file()

    monkeypatch.setattr(worker, "fit", fit)
    trial.run()
    assert not trials.is_failed(trial.folder)
    assert len(trial.told) == 1


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        OSError(errno.EIO, "input/output error"),
        ray.exceptions.GetTimeoutError("no reply"),
        caused(CheckpointError("cannot be written"), OSError(errno.ENOSPC, "disk full")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_that_may_pass_is_left_to_tune(
    make_trial: Callable[..., TrialHere], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trial = make_trial()
    monkeypatch.setattr(worker, "fit", raising(error))
    with pytest.raises((WorkerFailure, CheckpointError)):
        trial.run()
    assert not trials.is_failed(trial.folder)
