"""Nothing begins again silently: what --resume and --fork refuse, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import event_kinds, training_spec, weights_hash, write_line, write_pictures

from raydc import bundle, train
from raydc import spec as specs
from raydc.checkpoint import fork, resume
from raydc.checkpoint.state import unpack_weights
from raydc.cli import run_inventory
from raydc.cli.store_listing import StoreListing
from raydc.data import prepared
from raydc.errors import CheckpointError, RunError, UsageError
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking import lease


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    return prepared.load(write_pictures(Storage(str(tmp_path / "data"))))


@pytest.fixture
def runs(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "runs"))


def trained(
    runs: Storage, data: prepared.Prepared, name: str = "first", **sections: Any
) -> tuple[Spec, Storage]:
    """A run of one epoch, as the pipeline leaves it."""
    spec, folder = training_spec("x", name=name, train={"epochs": 1}, **sections), runs / name
    folder.write_json("resolved.yaml", specs.to_dict(spec))
    train.run(spec, data, folder, lambda line: None)
    return spec, folder


def again(spec: Spec, data: prepared.Prepared, folder: Storage, **arguments: Any) -> list[str]:
    lines: list[str] = []
    train.run(spec, data, folder, lines.append, resume=True, **arguments)
    return lines


# --resume --------------------------------------------------------------------------------------------


def test_unknown_run_is_refused_with_those_that_are_close(runs: Storage) -> None:
    with pytest.raises(RunError, match=r"there is no run 'digit' at .*/digit; there is none"):
        resume.require_run(runs / "digit", runs, "digit")
    for name in ("digits", "adult"):
        (runs / name).write_bytes("resolved.yaml", b"")
    with pytest.raises(RunError, match=r"there are: digits\n") as caught:
        resume.require_run(runs / "digit", runs, "digit")
    assert "raydc runs" in (caught.value.hint or "")
    resume.require_run(runs / "digits", runs, "digits")


def test_every_changed_key_is_named_with_both_values() -> None:
    spec = training_spec(
        "x", train={"optimizer": {"name": "sgd", "momentum": 0.5}, "learning_rate": 0.01}
    )
    before = specs.to_dict(training_spec("y", seed=3, train={"gradient_clip_norm": 2.0}))
    with pytest.raises(RunError) as caught:
        resume.refuse_other_spec(spec, before)
    assert caught.value.message.splitlines()[1:] == [
        "    seed: 3 then, 0 now",
        "    train.gradient_clip_norm: 2.0 then, not given now",
        "    train.optimizer.momentum: 0.0 then, 0.5 now",
        "    train.optimizer.name: 'adamw' then, 'sgd' now",
    ]
    assert "--new" in (caught.value.hint or "")
    other = training_spec(
        "z", scaling={"num_workers": 3}, checkpoint={"num_to_keep": 1}, train={"logical_shards": 3}
    )
    with pytest.raises(RunError, match=r"logical_shards: 3 then, 1 now") as caught:
        resume.refuse_other_spec(training_spec("x"), specs.to_dict(other))
    assert "--set train.logical_shards=3" in (caught.value.hint or "")


def test_other_data_is_refused_before_anything_starts(
    tmp_path: Path, runs: Storage, data: prepared.Prepared
) -> None:
    spec, folder = trained(runs, data)
    other = prepared.load(write_pictures(Storage(str(tmp_path / "other")), seed=1))
    attempts = event_kinds(folder).count("attempt_started")
    with pytest.raises(
        RunError, match=rf"data set {data.data_hash[:12]}, but .* is {other.data_hash[:12]}"
    ):
        again(spec, other, folder)
    assert event_kinds(folder).count("attempt_started") == attempts


def test_lost_checkpoints_are_no_reason_to_begin_again(
    runs: Storage, data: prepared.Prepared
) -> None:
    spec, folder = trained(runs, data)
    folder.delete("checkpoints")
    with pytest.raises(
        CheckpointError,
        match=r"has written 2 checkpoints, the last after step 7, but .* holds none",
    ):
        again(spec, data, folder)


def test_run_without_a_checkpoint_says_that_it_starts(
    runs: Storage, data: prepared.Prepared
) -> None:
    spec = training_spec("x", train={"epochs": 1})
    assert (
        again(spec, data, runs / "new")[0]
        == "train     no checkpoint was written before: starts at step 0"
    )


def test_run_that_is_driven_elsewhere_is_refused(
    runs: Storage, data: prepared.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = trained(runs, data)

    def state() -> str:
        storage = Storage(str(folder.local_path.parent.parent))
        return run_inventory.read_run(StoreListing(storage), folder.local_path.name).state

    assert state() == "finished"
    with lease.hold(folder):
        assert state() == "running"
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_held", {})  # As another process sees it.
            with pytest.raises(RunError, match=r"is driven by process \d+ on"):
                again(spec, data, folder)


def test_driver_that_lost_the_run_writes_no_checkpoint(
    runs: Storage, data: prepared.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = runs / "run", train.CheckpointStore.write

    def taken_over(store: Any, step: int, *arguments: Any) -> str:
        if step == 4:
            folder.write_json(
                lease.FILE,
                {**vars(lease.read_driver(folder)), "token": "other", "host": "far", "pid": 7},
            )
        return write(store, step, *arguments)

    monkeypatch.setattr(train.CheckpointStore, "write", taken_over)
    with pytest.raises(RunError, match="taken over by process 7 on far"):
        train.run(training_spec("x", train={"epochs": 2}), data, folder, lambda line: None)
    assert train.CheckpointStore(folder / "checkpoints", 3).steps() == [4]


# --fork ----------------------------------------------------------------------------------------------


def test_fork_starts_with_the_weights_of_another_run(
    runs: Storage, data: prepared.Prepared
) -> None:
    trained(runs, data)
    spec = training_spec(
        "x", name="second", seed=5, train={"epochs": 1, "learning_rate": 0.5, "optimizer": "sgd"}
    )
    found = fork.load(spec, data, runs, "first")
    folder, lines = runs / "second", list[str]()
    train.run(spec, data, folder, lines.append, fork=found)
    assert lines[0] == "train     starts with the weights of run 'first' after step 7"
    origin = fork.origin_of(folder)
    assert origin is not None
    assert (origin.run, origin.step, origin.data_hash) == ("first", 7, data.data_hash)
    assert "forked" in event_kinds(folder)
    assert (
        "- Forked from: run 'first' after step 7"
        in (folder / "model").read_bytes("card.md").decode()
    )
    assert bundle.load(folder / "model").facts["forked_from"] == "run 'first' after step 7"
    start = train.CheckpointStore(folder / "checkpoints", 3).read(0)
    assert start.meta["forked_from"]["step"] == 7
    assert weights_hash(folder, 0) == weights_hash(runs / "first", 7)
    assert {name: tensor.shape for name, tensor in unpack_weights(start).items()}
    assert again(spec, data, folder)


def test_fork_of_a_step(runs: Storage, data: prepared.Prepared) -> None:
    _, first = trained(runs, data)
    spec = training_spec("x", name="second")
    assert fork.load(spec, data, runs, "first:4").origin.step == 4
    assert fork.load(spec, data, Storage("/"), f"{first.uri}:4").origin.uri == first.uri
    with pytest.raises(CheckpointError, match="has no step_00000005; it has steps: 4, 7"):
        fork.load(spec, data, runs, "first:5")
    with pytest.raises(UsageError, match="'five' is not a number of steps"):
        fork.load(spec, data, runs, "first:five")
    with pytest.raises(RunError, match=r"there is no run 'frist' at .*; there are: first"):
        fork.load(spec, data, runs, "frist")


def test_fork_of_another_model_is_refused(
    tmp_path: Path, runs: Storage, data: prepared.Prepared
) -> None:
    trained(runs, data)
    spec = training_spec("x", model={"name": "mlp", "hidden": [8], "dropout": 0.2})
    with pytest.raises(RunError, match=r"model\.hidden: \[16\] then, \[8\] now"):
        fork.load(spec, data, runs, "first")
    line = prepared.load(write_line(Storage(str(tmp_path / "line"))))
    spec = training_spec("x", data={"task": "regression"})
    with pytest.raises(
        RunError,
        match=r"rows of another form: body\.\S+ has shape \[16, 64\] there, \[16, 2\] here",
    ):
        fork.load(spec, line, runs, "first")


def test_fork_takes_the_normalisation_of_the_new_data(
    tmp_path: Path, runs: Storage, data: prepared.Prepared
) -> None:
    _, first = trained(runs, data)
    found = fork.load(training_spec("x"), data, runs, "first")
    theirs = unpack_weights(train.CheckpointStore(first / "checkpoints", 3).read(7))
    assert found.weights.keys() == theirs.keys()
    assert found.weights["input.mean"].flatten().tolist() == [100.0]
