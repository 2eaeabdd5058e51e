"""A trial of a sweep in this process: what Tune is told, and what is recorded of its end."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray import tune
from training import training_spec, write_pictures

from raydc import spec as specs
from raydc.checkpoint.store import CheckpointStore
from raydc.elastic import mailbox, trial_worker
from raydc.elastic.worker_failure import WorkerFailure
from raydc.errors import CheckpointError, SpecError, TrainError
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import trials

VALUES = {"train.learning_rate": 0.02}


class TrialHere:
    """A trial that runs in this process, and what it has told Tune."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self._data = write_pictures(Storage(str(folder / "data")))
        self.spec = training_spec(str(folder), **sections)
        self._sweep = Storage(str(folder / "sweep"))
        self._key = trials.trial_key(specs.to_dict(self.spec), VALUES)
        self.folder = self._sweep / "trials" / self._key
        self.told: list[int] = []
        # Whether the trial had its record when Tune was told of the epoch.
        self.had_ended: list[bool] = []
        self.ends_at: int | None = None

    def report(self, metrics: dict[str, Any]) -> None:
        """Takes the place of `tune.report`."""
        self.told.append(metrics["epoch"])
        self.had_ended.append(trials.has_ended(self.folder))
        # So does Tune end the thread of a trial that it stops.
        if metrics["epoch"] == self.ends_at:
            raise SystemExit(0)

    def run(self, is_ended_by_tune: bool = False) -> None:
        """Runs the trial, whose thread has to end as Tune ends it."""
        with pytest.raises(SystemExit) if is_ended_by_tune else contextlib.nullcontext():
            self._run()

    def _run(self) -> None:
        silent = SimpleNamespace(remote=lambda *_: None)
        handle = SimpleNamespace(enter=silent, leave=silent, stop_reason=silent)
        config = {"trial": {"key": self._key, "all_values": VALUES}}
        trial_worker.run_trial(
            config, specs.to_dict(self.spec), self._data.uri, self._sweep.uri, handle
        )


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
def test_trial_tells_tune_its_last_epoch_once_it_is_recorded_as_finished(
    make_trial: Callable[..., TrialHere], train: dict[str, Any], epochs: int
) -> None:
    trial = make_trial(train=train)
    # Tune ends a trial with its last epoch, which must not keep it from its record.
    trial.ends_at = epochs
    trial.run(is_ended_by_tune=True)
    assert trial.told == list(range(1, epochs + 1))
    assert trial.had_ended == [False] * (epochs - 1) + [True]
    # Another driver tells the same, and trains nothing.
    trial.run(is_ended_by_tune=True)
    assert trial.told == [*range(1, epochs + 1)] * 2


def test_trial_that_crashed_after_its_last_epoch_is_finished_and_not_pruned(
    make_trial: Callable[..., TrialHere],
) -> None:
    trial = make_trial(train={"epochs": 3})
    trial.ends_at = 3
    trial.run(is_ended_by_tune=True)
    trial.folder.delete(trials.FINISHED_FILE)
    trial.run(is_ended_by_tune=True)
    assert trial.told == [1, 2, 3] * 2
    assert trial.had_ended[-1]


def test_pruned_trial_has_its_epoch_in_a_checkpoint_and_is_no_failure(
    make_trial: Callable[..., TrialHere],
) -> None:
    trial = make_trial()
    trial.ends_at = 2
    trial.run(is_ended_by_tune=True)
    assert trial.told == [1, 2]
    assert CheckpointStore(trial.folder / "checkpoints", 1).steps()[-1] == 14
    assert not trials.is_failed(trial.folder)
    assert not trials.has_ended(trial.folder)


def test_trial_that_was_pruned_before_is_told_and_not_trained(
    make_trial: Callable[..., TrialHere],
) -> None:
    trial = make_trial()
    trial.ends_at = 2
    trial.run(is_ended_by_tune=True)
    trials.mark_ended(trial.folder, trial.spec, VALUES, trials.PRUNED_FILE)
    trial.ends_at = None
    trial.run()
    assert trial.told == [1, 2, 1, 2]
    assert len(trials.read_epochs(trial.folder)) == 2


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
    # The next driver tries it again: the code may be another one by then.
    trial.run()
    assert trial.folder.exists(trials.FINISHED_FILE)
    assert not trial.folder.exists(trials.FAILED_FILE)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
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
