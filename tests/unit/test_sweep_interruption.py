"""A trial of a sweep in this process: it stops when the driver asks it to, with its state kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.exceptions import OutOfMemoryError
from training import event_kinds, training_spec, write_pictures

from raydc import spec as specs
from raydc import sweep
from raydc.checkpoint.store import CheckpointStore
from raydc.elastic import mailbox, trial_worker, tune_settings
from raydc.elastic.mailbox import Mailbox
from raydc.elastic.trial_worker import SweepPlace
from raydc.errors import TrainError
from raydc.loop import planned_stop
from raydc.storage import Storage
from raydc.tracking import lease, trials


def handle_of(actor: Mailbox) -> Any:
    """A handle whose calls are made at once, in this process."""

    def remote(name: str) -> Any:
        return SimpleNamespace(remote=getattr(actor, name))

    names = ("enter", "leave", "stop_reason", "request_stop", "num_training")
    return SimpleNamespace(**{name: remote(name) for name in names})


def test_trial_that_is_asked_to_stop_keeps_its_state_and_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")))
    spec = training_spec(str(tmp_path))
    values = {"train.learning_rate": 0.02}
    folder = Storage(str(tmp_path / "sweep"))
    key = trials.trial_key(specs.to_dict(spec), values)
    own = folder / "trials" / key
    monkeypatch.setattr(mailbox, "get_reply", lambda reply: reply)
    # Every step looks, however fast the machine is.
    monkeypatch.setattr(planned_stop, "_CHECK_EVERY_S", 0.0)
    actor = Mailbox()
    handle = handle_of(actor)
    told: list[int] = []
    training: list[int] = []

    def stop_reason(trial: str) -> str | None:
        # The driver is interrupted in the middle of the second epoch.
        training.append(actor.num_training())
        if len(training) == 10:
            sweep._keep_states(
                SimpleNamespace(
                    request_stop=handle.request_stop,
                    num_training=SimpleNamespace(remote=lambda: 0),
                )
            )
        return actor.stop_reason(trial)

    handle.stop_reason = SimpleNamespace(remote=stop_reason)
    monkeypatch.setattr(tune, "report", lambda record: told.append(record["epoch"]))

    def run_trial(handle: Any) -> None:
        segment = {"key": key, "all_values": values, "epochs": None}
        config = {"segment": segment}
        with lease.hold(folder) as claim:
            place = SweepPlace(specs.to_dict(spec), data.uri, folder.uri, "/none", claim)
            trial_worker.run_trial(config, place, handle)

    run_trial(handle)
    assert set(training) == {1}
    assert actor.num_training() == 0
    # It has not come to a rung, so Tune is told nothing.
    assert told == []
    assert not own.exists(trials.FINISHED_FILE)
    assert CheckpointStore(own / "checkpoints", 1).steps()
    assert "resize" in event_kinds(own)
    run_trial(handle_of(Mailbox()))
    assert own.exists(trials.FINISHED_FILE)


def test_process_that_ray_ends_for_its_memory_is_one_line_and_other_errors_stay() -> None:
    def fail(cause: Exception) -> None:
        with tune_settings.losses_named():
            # As Tune raises it for what it does not expect.
            raise RuntimeError(f"Caught unexpected exception: {cause}") from cause

    text = "3 workers were killed due to the node running low on memory.\nMemory on the node"
    with pytest.raises(TrainError, match="lost: 3 workers were killed due to") as found:
        fail(OutOfMemoryError(text))
    assert "--resume continues all trials" in str(found.value)
    with pytest.raises(RuntimeError, match="Caught unexpected exception: odd"):
        fail(ValueError("odd"))
