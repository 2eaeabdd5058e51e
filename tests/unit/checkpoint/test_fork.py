"""What --fork takes from another run, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from training import (
    event_kinds,
    resume_run,
    train_one_epoch,
    training_spec,
    weights_hash,
    write_line,
    write_pictures,
)

from raydc import bundle, train
from raydc.checkpoint import fork
from raydc.checkpoint.state import unpack_weights
from raydc.data import prepared
from raydc.errors import CheckpointError, RunError, UsageError
from raydc.storage import Storage


def test_fork_starts_with_the_weights_of_another_run(
    runs: Storage, data: prepared.Prepared
) -> None:
    train_one_epoch(runs, data)
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
    assert resume_run(spec, data, folder)


def test_fork_may_freeze_layers_and_takes_runs_of_before_a_field(
    runs: Storage, data: prepared.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new option of a model is at its default in a run that did not know it."""
    train_one_epoch(runs, data)
    section = {"name": "mlp", "hidden": [16], "dropout": 0.2, "freeze": "body"}
    spec = training_spec("x", name="second", model=section)
    read = yaml.safe_load

    def read_older(content: bytes) -> dict[str, Any]:
        value: dict[str, Any] = read(content)
        for field in ("activation", "initialisation", "freeze"):
            del value["model"][field]
        return value

    monkeypatch.setattr("raydc.checkpoint.fork.yaml.safe_load", read_older)
    assert fork.load(spec, data, runs, "first").origin.step == 7


def test_fork_keeps_a_normalisation_that_is_not_the_data_sets(
    runs: Storage, tmp_path: Path
) -> None:
    pictures = prepared.load(write_pictures(Storage(str(tmp_path / "pictures"))))
    section = {"name": "cnn", "depth": 1, "hidden": 4}
    own = {**section, "normalisation": {"mean": [0.5], "std": [0.25]}}
    for name, model in (("own", own), ("plain", section)):
        train_one_epoch(runs, pictures, name, model=model)
        spec = training_spec("x", name="second", model=model)
        taken = fork.load(spec, pictures, runs, name).weights
        expected = 0.5 * 255 if name == "own" else pictures.features.signature.mean[0]
        assert float(taken["input.mean"]) == pytest.approx(expected)


def test_load_with_a_step_reads_that_checkpoint(runs: Storage, data: prepared.Prepared) -> None:
    _, first = train_one_epoch(runs, data)
    spec = training_spec("x", name="second")
    assert fork.load(spec, data, runs, "first:4").origin.step == 4
    assert fork.load(spec, data, Storage("/"), f"{first.uri}:4").origin.uri == first.uri
    with pytest.raises(CheckpointError, match="has no step_00000005; it has steps: 4, 7"):
        fork.load(spec, data, runs, "first:5")
    with pytest.raises(UsageError, match="'five' is not a number of steps"):
        fork.load(spec, data, runs, "first:five")
    with pytest.raises(RunError, match=r"there is no run 'frist' at .*; there are: first"):
        fork.load(spec, data, runs, "frist")


def test_load_for_another_model_or_form_of_rows_is_refused(
    tmp_path: Path, runs: Storage, data: prepared.Prepared
) -> None:
    train_one_epoch(runs, data)
    spec = training_spec("x", model={"name": "mlp", "hidden": [8], "dropout": 0.2})
    with pytest.raises(RunError, match=r"model\.hidden: \[16\] then, \[8\] now"):
        fork.load(spec, data, runs, "first")
    line = prepared.load(write_line(Storage(str(tmp_path / "line"))))
    spec = training_spec("x", data={"task": "regression"})
    with pytest.raises(
        RunError,
        match=r"rows of a different shape: body\.\S+ has shape \[16, 64\] there, \[16, 2\] here",
    ):
        fork.load(spec, line, runs, "first")


def test_load_takes_the_normalisation_of_the_new_data(
    tmp_path: Path, runs: Storage, data: prepared.Prepared
) -> None:
    _, first = train_one_epoch(runs, data)
    found = fork.load(training_spec("x"), data, runs, "first")
    theirs = unpack_weights(train.CheckpointStore(first / "checkpoints", 3).read(7))
    assert found.weights.keys() == theirs.keys()
    assert found.weights["input.mean"].flatten().tolist() == [100.0]
