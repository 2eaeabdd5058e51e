"""A sweep: every trial counted, the best one wins, nothing is run twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc import bundle, engine, sweep
from raydc.data import prepared
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking import events

SPACE = {
    "train.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "model.depth": {"choice": [1, 2]},
    "model.width": {"choice": [8, 16]},
}


def sweep_spec(folder: Path, **fields: Any) -> Spec:
    section = {"space": SPACE, "num_samples": 4, "max_concurrent_trials": 2, **fields}
    return training_spec(str(folder), sweep=section, model={"name": "mlp", "depth": 1, "width": 8})


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    return prepared.load(write_pictures(Storage(str(tmp_path / "data"))))


def test_sweep_best_trial_becomes_the_bundle(
    ray_engine: engine.Engine, tmp_path: Path, data: prepared.Prepared
) -> None:
    given, folder, lines = sweep_spec(tmp_path), Storage(str(tmp_path / "run")), []
    result = sweep.run(given, data, folder, lines.append)
    assert len(result.trials) == 4
    assert {trial.state for trial in result.trials} <= {"finished", "pruned"}
    metrics = [trial.metric for trial in result.trials if trial.metric is not None]
    assert result.winner.metric == max(metrics)
    winner = bundle.load(result.bundle_folder)
    assert winner.spec.train.learning_rate == result.winner.values["train.learning_rate"]
    assert winner.spec.model.depth == result.winner.values["model.depth"]  # type: ignore[union-attr]
    assert winner.facts["metrics"]["accuracy"] == pytest.approx(result.winner.metric)
    assert sum(line.startswith("sweep     *") for line in lines) == 1
    assert folder.names("sweep") == ["trials", "trials.json"]

    # The same sweep again: the same trials, and a finished one is read, not trained again.
    starts = {key: attempts(folder, key) for key in folder.names("sweep/trials")}
    again = sweep.run(given, data, folder, lines.append)
    assert [trial.values for trial in again.trials] == [trial.values for trial in result.trials]
    finished = [trial.key for trial in result.trials if trial.state == "finished"]
    assert finished
    assert {key: attempts(folder, key) for key in finished} == {
        key: starts[key] for key in finished
    }


def attempts(folder: Storage, key: str) -> int:
    log = events.read(folder / "sweep" / "trials" / key, "events")
    return sum(record["kind"] == "attempt_started" for record in log)


def test_sweep_grid_runs_every_point_and_fifo_prunes_none(
    ray_engine: engine.Engine, tmp_path: Path, data: prepared.Prepared
) -> None:
    space = {"model.width": {"grid": [4, 8]}, "train.optimizer.name": {"grid": ["sgd", "adam"]}}
    given = sweep_spec(tmp_path, space=space, num_samples=1, scheduler="fifo")
    result = sweep.run(given, data, Storage(str(tmp_path / "run")), lambda line: None)
    points = {
        (trial.values["model.width"], trial.values["train.optimizer.name"])
        for trial in result.trials
    }
    assert points == {(width, name) for width in (4, 8) for name in ("sgd", "adam")}
    assert [(trial.state, trial.epochs) for trial in result.trials] == [("finished", 3)] * 4
