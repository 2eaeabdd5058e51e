"""The loop of a worker, in this process."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from training import (
    StopsAfter,
    check_ledger,
    event_kinds,
    step_records,
    training_spec,
    weights_hash,
    write_line,
    write_pictures,
)

from raydc import train
from raydc.checkpoint.state import State
from raydc.checkpoint.store import CheckpointStore
from raydc.data.cold_rows import Reading
from raydc.data.prepared import load
from raydc.data.shards import Rows
from raydc.engine import interruption
from raydc.errors import CheckpointError, RunError, TrainError
from raydc.loop import planned_stop, worker
from raydc.loop.fault_injection import FaultInjector
from raydc.loop.hooks import Hooks
from raydc.loop.planned_stop import PlannedStopError
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.attempt_fence import AttemptFence

STEPS_PER_EPOCH = 7


@pytest.fixture
def data(tmp_path: Path) -> Storage:
    return write_pictures(Storage(str(tmp_path / "data")))


def folder(tmp_path: Path, name: str = "run") -> Storage:
    return Storage(str(tmp_path / name))


def fit_and_kill(spec: ResolvedSpec, run_folder: Storage, data: Storage, step: int) -> None:
    """Trains until `step` steps are completed, then dies."""
    with pytest.raises(KeyboardInterrupt):
        worker.fit(spec, run_folder, data, hooks=Hooks(faults=StopsAfter(step)))


def test_rows_collected_in_passes_train_the_same_model(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = training_spec(str(tmp_path), train={"epochs": 3})
    worker.fit(spec, folder(tmp_path, "plain"), data)
    monkeypatch.setattr(Rows, "reading", Reading(None, 60, "too many rows"))
    # Killed in the second epoch, so that the passes begin in its middle.
    fit_and_kill(spec, folder(tmp_path), data, 10)
    worker.fit(spec, folder(tmp_path), data)
    last = 3 * STEPS_PER_EPOCH
    assert weights_hash(folder(tmp_path), last) == weights_hash(folder(tmp_path, "plain"), last)
    check_ledger(folder(tmp_path), spec)
    notes = [e["text"] for e in events.read(folder(tmp_path), "events") if e["kind"] == "reading"]
    assert len(notes) == 2
    assert notes[0].startswith("too many rows, ")


def test_fit_learns_and_uses_each_row_once_per_epoch(tmp_path: Path, data: Storage) -> None:
    spec = training_spec(str(tmp_path), train={"epochs": 8})
    state = worker.fit(spec, folder(tmp_path), data)
    assert state.reason == "completed"
    assert state.step == 8 * STEPS_PER_EPOCH
    assert state.metrics is not None
    assert state.metrics["accuracy"] is not None
    assert state.metrics["accuracy"] > 0.9
    check_ledger(folder(tmp_path), spec)
    lines = [r for r in events.read(folder(tmp_path), "metrics") if r["kind"] == "epoch"]
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert {"accuracy", "f1", "loss", "train_loss", "split"} <= lines[0].keys()
    steps = step_records(folder(tmp_path))
    for line in lines:
        # The mean over the rows of its steps, of which the last has fewer.
        own = [(one["loss"], one["rows"]) for one in steps if one["epoch"] == line["epoch"]]
        mean = sum(loss * rows for loss, rows in own) / sum(rows for _, rows in own)
        assert line["train_loss"] == pytest.approx(mean, rel=1e-6)


def test_fit_of_a_regression_scores_in_units_of_the_target(tmp_path: Path) -> None:
    data = write_line(folder(tmp_path, "data"))
    model = {"name": "linear"}
    spec = training_spec(
        str(tmp_path),
        data={"task": "regression"},
        model=model,
        train={"epochs": 30, "optimizer": "adam"},
    )
    state = worker.fit(spec, folder(tmp_path), data)
    assert state.metrics is not None
    rmse, loss, r2 = state.metrics["rmse"], state.metrics["loss"], state.metrics["r2"]
    assert rmse is not None
    assert loss is not None
    assert r2 is not None
    assert r2 > 0.9
    assert rmse == pytest.approx(100.0 * loss**0.5, rel=1e-5)


class Whole(NamedTuple):
    """A run that nothing has disturbed."""

    spec: ResolvedSpec
    data: Storage
    run: Storage
    state: State


@pytest.fixture(scope="module", params=["mlp", "batch_norm", "momentum", "augment"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One for each kind of state that a checkpoint has to hold."""
    model, path = request.param, tmp_path_factory.mktemp("whole")
    section = (
        {"name": "cnn", "channels": [4, 8], "batch_norm": True, "dropout": 0.3}
        if model != "mlp"
        else None
    )
    sections: dict[str, Any] = {"model": section} if section else {}
    if model == "augment":
        sections["data"] = {"augment": {"crop_padding": 2, "horizontal_flip": True}}
    schedule = {
        "lr_scheduler": {"name": "cosine", "warmup_steps": 3},
        "logical_shards": 3,
        "gradient_clip_norm": 1.0,
    }
    if model == "momentum":
        schedule["optimizer"] = {"name": "sgd", "momentum": 0.9}
    spec = training_spec(str(path), train=schedule, **sections)
    data, run = write_pictures(folder(path, "data")), folder(path)
    return Whole(spec, data, run, worker.fit(spec, run, data))


@pytest.mark.parametrize("killed_at", [2, 9, 13, 20])
def test_fit_killed_and_resumed_equals_the_undisturbed_run_bit_for_bit(
    tmp_path: Path, whole: Whole, killed_at: int
) -> None:
    (spec, data, undisturbed, state), disturbed = whole, folder(tmp_path)
    fit_and_kill(spec, disturbed, data, killed_at)
    assert worker.fit(spec, disturbed, data) == state
    assert weights_hash(disturbed, state.step) == weights_hash(undisturbed, state.step)
    starts = [r["step"] for r in events.read(disturbed, "metrics") if r["kind"] == "start"]
    assert starts == [0, {2: 0, 9: 8, 13: 12, 20: 20}[killed_at]]
    check_ledger(disturbed, spec)
    losses = [(r["step"], r["loss"], r["lr"]) for r in step_records(disturbed)]
    assert losses == [(r["step"], r["loss"], r["lr"]) for r in step_records(undisturbed)]


def test_fit_with_damaged_newest_checkpoint_continues_from_the_previous(
    tmp_path: Path, data: Storage
) -> None:
    spec, run = training_spec(str(tmp_path)), folder(tmp_path)
    undisturbed = worker.fit(spec, folder(tmp_path, "undisturbed"), data)
    fit_and_kill(spec, run, data, 14)
    path = run.local_path / "checkpoints/step_00000014/model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    notes: list[dict[str, Any]] = []
    state = worker.fit(spec, run, data, hooks=Hooks(publish=notes.append))
    skipped = [note for note in notes if note["kind"] == "checkpoint_skipped"]
    assert [note["checkpoint"] for note in skipped] == ["step_00000014"]
    assert "model.safetensors is damaged: expected sha256" in skipped[0]["reason"]
    assert [r["step"] for r in events.read(run, "metrics") if r["kind"] == "start"] == [0, 12]
    assert "step_00000014.damaged" in run.names("checkpoints")
    assert state == undisturbed
    assert weights_hash(run, 21) == weights_hash(folder(tmp_path, "undisturbed"), 21)


def test_fit_without_a_checkpoint_that_verifies_is_refused(tmp_path: Path, data: Storage) -> None:
    spec, run = training_spec(str(tmp_path)), folder(tmp_path)
    fit_and_kill(spec, run, data, 6)
    run.delete("checkpoints/step_00000004/MANIFEST.json")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints") as caught:
        worker.fit(spec, run, data)
    assert "--new" in (caught.value.hint or "")


def test_fit_of_a_finished_run_does_nothing(tmp_path: Path, data: Storage) -> None:
    spec, run = training_spec(str(tmp_path)), folder(tmp_path)
    state = worker.fit(spec, run, data)
    lines = len(step_records(run))
    assert worker.fit(spec, run, data) == state
    assert len(step_records(run)) == lines


def test_fit_with_another_data_set_or_spec_is_refused(tmp_path: Path, data: Storage) -> None:
    run = folder(tmp_path)
    worker.fit(training_spec(str(tmp_path)), run, data)
    other = write_pictures(folder(tmp_path, "other"), seed=1)
    with pytest.raises(RunError, match="trained on data set"):
        worker.fit(training_spec(str(tmp_path)), run, other)
    with pytest.raises(RunError, match=r"train\.learning_rate: 0\.01 then, 0\.5 now"):
        worker.fit(training_spec(str(tmp_path), train={"learning_rate": 0.5}), run, data)
    with pytest.raises(RunError, match=r"data\.augment: not given then, "):
        worker.fit(
            training_spec(str(tmp_path), data={"augment": {"horizontal_flip": True}}), run, data
        )


def test_fit_with_infinite_loss_ends_with_an_error(tmp_path: Path, data: Storage) -> None:
    spec = training_spec(str(tmp_path), train={"optimizer": "sgd", "learning_rate": 1e30})
    with pytest.raises(TrainError, match=r"the loss is (nan|inf) at step \d+"):
        worker.fit(spec, folder(tmp_path), data)


def test_fit_stops_early_after_patience(tmp_path: Path, data: Storage) -> None:
    train = {"epochs": 50, "early_stop": {"patience": 2, "min_delta": 0.5}, "learning_rate": 1e-6}
    state = worker.fit(training_spec(str(tmp_path), train=train), folder(tmp_path), data)
    assert (state.reason, state.step) == ("early_stop", 3 * STEPS_PER_EPOCH)


def test_on_epoch_is_told_every_epoch_but_the_last_and_its_error_ends_the_run(
    tmp_path: Path, data: Storage
) -> None:
    seen: list[int] = []
    spec = training_spec(str(tmp_path))

    def stop_in_second(record: dict[str, Any]) -> None:
        seen.append(record["epoch"])
        if seen == [1, 2]:
            raise PlannedStopError(planned_stop.RUNG, record["step"])

    hooks = Hooks(on_epoch=stop_in_second)
    with pytest.raises(PlannedStopError, match="rung"):
        worker.fit(spec, folder(tmp_path), data, hooks=hooks)
    # The epoch is in a checkpoint all the same.
    assert folder(tmp_path).exists(f"checkpoints/step_{2 * STEPS_PER_EPOCH:08d}/MANIFEST.json")
    state = worker.fit(spec, folder(tmp_path), data, hooks=hooks)
    assert (state.reason, seen) == ("completed", [1, 2])


def test_fit_with_max_steps_ends_inside_an_epoch(tmp_path: Path, data: Storage) -> None:
    spec = training_spec(str(tmp_path), train={"epochs": None, "max_steps": 10})
    state = worker.fit(spec, folder(tmp_path), data)
    assert (state.reason, state.step) == ("completed", 10)
    assert folder(tmp_path).exists("checkpoints/step_00000010/MANIFEST.json")


def test_fit_keeps_the_best_checkpoint(tmp_path: Path, data: Storage) -> None:
    spec = training_spec(str(tmp_path), train={"epochs": 6}, checkpoint={"num_to_keep": 1})
    state = worker.fit(spec, folder(tmp_path), data)
    kept = set(folder(tmp_path).names("checkpoints"))
    assert kept == {f"step_{step:08d}" for step in (state.best_step, state.step)}


def test_fit_without_validation_rows_has_no_best_step(tmp_path: Path) -> None:
    data = write_pictures(folder(tmp_path, "data"), num_rows={"train": 50})
    spec = training_spec(str(tmp_path), data={"split": {"validation_fraction": 0.0}})
    state = worker.fit(spec, folder(tmp_path), data)
    assert (state.best_step, state.reason) == (None, "completed")


def test_fit_records_start_checkpoints_and_end(tmp_path: Path, data: Storage) -> None:
    worker.fit(training_spec(str(tmp_path), train={"epochs": 1}), folder(tmp_path), data)
    kinds = [kind for kind in event_kinds(folder(tmp_path)) if kind != "time"]
    assert kinds[0] == "attempt_started"
    assert kinds[-1] == "run_finished"
    assert kinds.count("checkpoint") == 2
    assert (
        json.loads(folder(tmp_path).read_bytes("checkpoints/step_00000007/state.json"))["step"] == 7
    )


class CutOff(StopsAfter):
    """Lets the driver start the next attempt while this one is at work, as it does for a host
    that is cut from the network but still reaches storage."""

    def __init__(self, next_attempt: Callable[[], None], step: int | None, place: str = "") -> None:
        super().__init__(None)
        self._next_attempt, self._step, self._place = next_attempt, step, place

    def before_step(self, step: int) -> None:
        if step - 1 == self._step:
            self._next_attempt()

    def reached(self, place: str) -> None:
        if place == self._place:
            self._next_attempt()


def test_attempt_that_was_replaced_writes_nothing_more(tmp_path: Path, data: Storage) -> None:
    spec = training_spec(str(tmp_path))
    undisturbed, run = folder(tmp_path, "undisturbed"), folder(tmp_path)
    state = worker.fit(spec, undisturbed, data)
    files: list[dict[str, bytes]] = []

    def contents() -> dict[str, bytes]:
        paths = (path for path in run.local_path.rglob("*") if path.is_file())
        # Charts and the mapped sums are a convenience, of which each attempt has its own.
        kept = (p for p in paths if not {"tensorboard", "pulse"} & {*p.parts, p.stem})
        return {str(path): path.read_bytes() for path in kept}

    def next_attempt() -> None:
        assert worker.fit(spec, run, data) == state
        files.append(contents())

    with pytest.raises(RunError, match="newer attempt"):
        worker.fit(spec, run, data, hooks=Hooks(faults=CutOff(next_attempt, 6)))
    assert contents() == files[0]
    check_ledger(run, spec)
    assert weights_hash(run, state.step) == weights_hash(undisturbed, state.step)


def test_checkpoint_on_its_way_is_not_committed_by_a_replaced_attempt(
    tmp_path: Path, data: Storage
) -> None:
    run = folder(tmp_path)
    hooks = Hooks(faults=CutOff(lambda: AttemptFence(run).claim(), None, "wrote MANIFEST.json"))
    with pytest.raises(RunError, match="newer attempt"):
        worker.fit(training_spec(str(tmp_path)), run, data, hooks=hooks)
    assert CheckpointStore(run / "checkpoints", 1).steps() == []


def test_attempt_number_of_the_driver_is_claimed(tmp_path: Path, data: Storage) -> None:
    run = folder(tmp_path)
    worker.fit(training_spec(str(tmp_path)), run, data, hooks=Hooks(next_attempt=lambda: 12))
    assert run.read_json("attempt.json")["number"] == 12


def test_signal_keeps_the_step_that_the_run_is_at(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, undisturbed, run = training_spec(str(tmp_path)), folder(tmp_path, "a"), folder(tmp_path)
    whole, prepared_data = train.run(spec, load(data), undisturbed, print), load(data)
    before_step = FaultInjector.before_step

    def interrupt(faults: FaultInjector, step: int) -> None:
        before_step(faults, step)
        if step == 10:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FaultInjector, "before_step", interrupt)
        # Every step looks, however fast the machine is.
        patch.setattr(planned_stop, "_CHECK_EVERY_S", 0.0)
        with interruption.catch_signals(), pytest.raises(KeyboardInterrupt) as caught:
            train.run(spec, prepared_data, run, print)
    assert "--resume goes on" in caught.value.__notes__
    # Step 10 was done, and nothing after it; every_steps would have kept step 8.
    assert CheckpointStore(run / "checkpoints", 1).steps()[-1] == 10
    assert event_kinds(run)[-1] == "driver_ended"
    assert "resize" in event_kinds(run)
    assert train.run(spec, prepared_data, run, print, resume=True) == whole
    assert weights_hash(run, whole.steps) == weights_hash(undisturbed, whole.steps)
    check_ledger(run, spec)
