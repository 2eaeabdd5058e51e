"""A sweep: every trial counted, the best one wins, nothing is run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc import bundle, engine, sweep, train
from raydc import spec as specs
from raydc.data import prepared
from raydc.errors import RunError, TrainError
from raydc.spec.sections import Spec
from raydc.storage import Storage, sha256
from raydc.tracking import events, lease, trials

SPACE = {
    "train.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "model.depth": {"choice": [1, 2]},
    "model.width": {"choice": [8, 16]},
}

WIDTH = "model.width"


def sweep_spec(folder: Path, sections: dict[str, Any] | None = None, **fields: Any) -> Spec:
    section = {"space": SPACE, "num_samples": 4, "max_concurrent_trials": 2, **fields}
    model = {"name": "mlp", "depth": 1, "width": 8}
    return training_spec(str(folder), **{"sweep": section, "model": model, **(sections or {})})


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
    assert folder.names("sweep") == ["best.yaml", "journal", "trials", "trials.json"]
    decisions = journal(folder)
    # Its spec gives the model of the sweep once more.
    alone = specs.resolve(specs.load(folder.local_path / "sweep/best.yaml"))
    train.run(alone, data, Storage(str(tmp_path / "alone")), lambda line: None)
    assert weights(Storage(str(tmp_path / "alone"))) == weights(folder)

    assert 1 <= num_checkpoints(folder) <= 3

    # A wider sweep begins with the same trials, which are read and not trained again, whatever the
    # concurrency. A driver that was killed has left its folder.
    folder.write_json("sweep/tune-1700000000000000000/tuner.json", {})
    starts = {key: attempts(folder, key) for key in folder.names("sweep/trials")}
    wider = sweep_spec(tmp_path, num_samples=6, max_concurrent_trials=1)
    again = sweep.run(wider, data, folder, lines.append)
    assert len(again.trials) == 6
    assert again.trials[:4] == result.trials
    assert {key: attempts(folder, key) for key in starts} == starts
    assert folder.names("sweep") == ["best.yaml", "journal", "trials", "trials.json"]
    assert journal(folder)[: len(decisions)] == decisions
    assert b'"kind":"end"' in decisions[-1]
    assert b'"kind":"end"' in journal(folder)[-1]
    assert 1 <= num_checkpoints(folder) <= 3
    assert bundle.load(again.bundle_folder).facts["metrics"]["accuracy"] == pytest.approx(
        again.winner.metric
    )


def test_sweep_of_several_objectives_has_a_front_of_specs(
    ray_engine: engine.Engine, tmp_path: Path, data: prepared.Prepared
) -> None:
    space = {"train.learning_rate": {"loguniform": [1e-3, 1e-1]}, WIDTH: {"choice": [4, 8, 16, 64]}}
    goals = {"objectives": ["parameters"], "constraints": {"parameters": 2000, "latency_ms": 1e4}}
    given = sweep_spec(
        tmp_path, space=space, num_samples=8, scheduler="fifo", search_alg="nsga2", lag=4, **goals
    )
    folder, lines = Storage(str(tmp_path / "run")), []
    result = sweep.run(given, data, folder, lines.append)
    refused = [trial for trial in result.trials if trial.values[WIDTH] == 64]
    trained = [trial for trial in result.trials if trial.values[WIDTH] != 64]
    assert refused
    assert {trial.state for trial in refused} == {"failed"}
    assert {trial.state for trial in trained} == {"finished"}
    assert all("infeasible: parameters" in str(trial.error) for trial in refused)
    assert not any(attempts(folder, trial.key) for trial in refused)
    assert result.winner.metric == max(trial.metric or 0.0 for trial in trained)

    # None of the front is as small as, and better than, another; the winner is among them.
    names = folder.names("sweep/front")
    numbers = [int(name.removeprefix("trial-").removesuffix(".yaml")) for name in names]
    front = [result.trials[number] for number in numbers]
    by_size = sorted((trial.costs["parameters"], trial.metric or 0.0) for trial in front)
    assert by_size == sorted(set(by_size))
    assert [metric for _, metric in by_size] == sorted({metric for _, metric in by_size})
    assert max(metric for _, metric in by_size) == result.winner.metric
    marked = [line.split()[1] for line in lines if line.startswith(("sweep     +", "sweep     *+"))]
    assert sum("+" in mark for mark in marked) >= len(front) - 1
    spec = specs.resolve(specs.load(folder.local_path / "sweep/front" / names[0]))
    assert spec.model.width == front[0].values[WIDTH]  # type: ignore[union-attr]
    assert spec.sweep is None

    # Nothing is trained or measured again, and all is decided as before.
    before = journal(folder), journal(folder, "draws"), folder.names("sweep/latency")
    folder.write_bytes("sweep/front/trial-99.yaml", b"of a front with fewer samples")
    sweep.run(given, data, folder, lines.append)
    assert folder.names("sweep/front") == names
    assert before == (journal(folder), journal(folder, "draws"), folder.names("sweep/latency"))


def weights(folder: Storage) -> str:
    """SHA-256 of the weights of a model, which is also in the file with the winner's spec."""
    digest = sha256(folder.read_bytes("model/model.safetensors"))
    if folder.exists("sweep/best.yaml"):
        assert f"# {digest}" in folder.read_bytes("sweep/best.yaml").decode().splitlines()
    return digest


def journal(folder: Storage, kind: str = "journal") -> list[bytes]:
    """The decisions of a sweep, or its draws, in order."""
    # A driver that is killed while it writes may leave a draft, which nothing reads.
    names = [name for name in folder.names(f"sweep/{kind}") if name.endswith(".json")]
    return [folder.read_bytes(f"sweep/{kind}/{name}") for name in names]


# What a driver of its own does, so that it can be killed.
DRIVER = """
import json, sys
from raydc import engine, spec, sweep
from raydc.data import prepared
from raydc.storage import Storage, sha256
address, given, data, folder = json.loads(sys.argv[1])
engine.connect(address)
sweep.run(spec.resolve(spec.from_dict(given)), prepared.load(Storage(data)), Storage(folder), print)
"""


def kill_driver_after(
    decisions: int, address: str, given: Spec, data: Storage, run: Storage
) -> None:
    """Runs a sweep in a driver of its own, which is killed once it has decided something."""
    arguments = json.dumps([address, specs.to_dict(given), data.uri, run.uri])
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, arguments], stdout=subprocess.DEVNULL)
    while len(run.names("sweep/journal")) < decisions and driver.poll() is None:
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL


@pytest.mark.parametrize("search", [{}, {"search_alg": "tpe", "lag": 2}])
def test_sweep_decides_the_same_at_any_concurrency_and_after_a_killed_driver(
    ray_engine: engine.Engine, tmp_path: Path, data: prepared.Prepared, search: dict[str, Any]
) -> None:
    scheduler = {"name": "asha", "type": "promotion", "reduction_factor": 2}
    fields = {"num_samples": 5, "scheduler": scheduler, **search}
    given = sweep_spec(tmp_path, **fields, max_concurrent_trials=1)
    killed, undisturbed = Storage(str(tmp_path / "killed")), Storage(str(tmp_path / "undisturbed"))
    kill_driver_after(4, ray_engine.address, given, data.folder, killed)
    before = journal(killed)
    assert b'"kind":"end"' not in before[-1]
    one = sweep.run(given, data, killed, lambda line: None)

    lines: list[str] = []
    wide = sweep_spec(tmp_path, **fields, max_concurrent_trials=2)
    two = sweep.run(wide, data, undisturbed, lines.append)
    assert journal(killed)[: len(before)] == before
    assert journal(killed) == journal(undisturbed)
    assert journal(killed, "draws") == journal(undisturbed, "draws")
    assert len(journal(killed, "draws")) == (6 if search else 0)
    assert one.trials == two.trials
    assert one.winner == two.winner
    entries = [json.loads(line) for line in journal(killed) if b'"kind":"entry"' in line]
    ran = [(entry["trial"], entry["epochs"]) for entry in entries]
    # Of five trials two at least go on, of which one trains to the end.
    assert [epochs for _, epochs in ran].count(1) == 5
    assert [epochs for _, epochs in ran].count(3) >= 1
    # Each trial has trained as far as the journal says, and no further.
    furthest = [max(epochs for trial, epochs in ran if trial == number) for number in range(5)]
    assert [trial.epochs for trial in two.trials] == furthest
    stopped = [line for line in lines if ", pruned: place " in line]
    assert len(stopped) == sum(trial.state == "pruned" for trial in two.trials) >= 1


def num_checkpoints(folder: Storage) -> int:
    return len(list(folder.local_path.glob("sweep/trials/*/checkpoints/step_*")))


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


@pytest.mark.parametrize("train", [{"epochs": 1}, {"epochs": None, "max_steps": 1}])
def test_sweep_of_one_epoch_has_a_winner(
    ray_engine: engine.Engine, tmp_path: Path, data: prepared.Prepared, train: dict[str, Any]
) -> None:
    given = sweep_spec(tmp_path, {"train": train}, num_samples=3)
    result = sweep.run(given, data, Storage(str(tmp_path / "run")), lambda line: None)
    assert [(trial.state, trial.epochs) for trial in result.trials] == [("finished", 1)] * 3
    assert result.winner.metric == max(trial.metric or 0.0 for trial in result.trials)


# The loss is no number after the first step.
INFINITE_RATE = 1e30


def rate_spec(folder: Path, rates: list[float], epochs: int = 3) -> Spec:
    """A sweep over learning rates, one trial after the other in one process."""
    space = {"train.learning_rate": {"grid": rates}}
    sections = {"train": {"optimizer": {"name": "sgd"}, "epochs": epochs}}
    fields = {"num_samples": 1, "scheduler": "fifo", "max_concurrent_trials": 1}
    return sweep_spec(folder, sections, space=space, **fields)


def test_trial_that_would_fail_again_is_tried_once_and_a_lost_one_again(
    ray_engine: engine.Engine,
    tmp_path: Path,
    data: prepared.Prepared,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = rate_spec(tmp_path, [1e-2, INFINITE_RATE], epochs=30)
    folder, lines = Storage(str(tmp_path / "run")), []
    killing = threading.Thread(target=kill_once, args=(folder, 1e-2, given), daemon=True)
    killing.start()
    result = sweep.run(given, data, folder, lines.append)
    killing.join()
    assert [(trial.state, trial.epochs) for trial in result.trials] == [
        ("finished", 30),
        ("failed", 0),
    ]
    assert len(pids(folder, 1e-2, given)) == 2
    assert len(pids(folder, INFINITE_RATE, given)) == 1
    assert sum("a trial is tried again after " in line for line in lines) == 1
    failed = [line for line in lines if " failed: " in line]
    assert len(failed) == 1
    assert failed[0].startswith("sweep     2 of 2 failed: TrainError: the loss is ")
    said = "".join([*(record.getMessage() for record in caplog.records), *capfd.readouterr()])
    assert "Traceback" not in said


def kill_once(folder: Storage, rate: float, given: Spec) -> None:
    """Kills the process of a trial as soon as it trains."""
    found: list[int] = []
    while not found:
        time.sleep(0.01)
        found = pids(folder, rate, given)
    os.kill(found[0], signal.SIGKILL)


def pids(folder: Storage, rate: float, given: Spec) -> list[int]:
    """The processes that have trained a trial, one for each attempt."""
    key = trials.trial_key(specs.to_dict(given), {"train.learning_rate": rate})
    log = events.read(folder / "sweep" / "trials" / key, "events")
    return [record["pids"][0] for record in log if record["kind"] == "attempt_started"]


def test_sweep_of_which_every_trial_fails_says_the_first_error(
    ray_engine: engine.Engine, tmp_path: Path, data: prepared.Prepared
) -> None:
    given = rate_spec(tmp_path, [INFINITE_RATE, 2 * INFINITE_RATE])
    with pytest.raises(TrainError, match=r"none of the 2 trials .*first error: .*the loss is "):
        sweep.run(given, data, Storage(str(tmp_path / "run")), lambda line: None)


def test_driver_that_loses_the_sweep_ends_with_one_message_and_the_other_goes_on(
    ray_engine: engine.Engine,
    tmp_path: Path,
    data: prepared.Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.1)
    given = sweep_spec(tmp_path, num_samples=6, max_concurrent_trials=2)
    folder, undisturbed = Storage(str(tmp_path / "run")), Storage(str(tmp_path / "undisturbed"))
    at_loss: list[Any] = []

    def lose(line: str) -> None:
        # Another host takes the run over, while others of its trials run.
        if "1 of 6 ended" not in line:
            return
        driver = lease.read_driver(folder)
        assert driver is not None
        taken = {**asdict(driver), "token": "another", "host": "far", "machine": "another boot"}
        with lease._locked(folder):
            folder.write_json(lease.FILE, taken)
        at_loss.append(folder.names("sweep/trials"))

    with pytest.raises(lease.TakenOverError, match=r"was taken over by process .* on far") as found:
        sweep.run(given, data, folder, lose)
    assert found.value.exit_code == 5
    assert not folder.exists("model")
    assert not folder.exists("sweep/trials.json")
    # Nothing was begun since, and what ran is not taken for a failure.
    assert folder.names("sweep/trials") == at_loss[0]
    for key in at_loss[0]:
        assert not trials.is_failed(folder / "sweep/trials" / key)
    assert lease.owner_token(folder) == "another"
    # The other driver, which has died since, is followed by a third one.
    folder.delete(lease.FILE)
    result = sweep.run(given, data, folder, lambda line: None)
    expected = sweep.run(given, data, undisturbed, lambda line: None)
    assert result.trials == expected.trials
    assert journal(folder) == journal(undisturbed)
    assert weights(folder) == weights(undisturbed)


def test_sweep_of_a_live_driver_is_left_alone(
    ray_engine: engine.Engine,
    tmp_path: Path,
    data: prepared.Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Storage(str(tmp_path / "run"))
    folder.write_json("sweep/tune-1700000000000000000/tuner.json", {})
    with lease.hold(folder):
        # As another process sees it.
        monkeypatch.setattr(lease, "_held", {})
        with pytest.raises(RunError, match="is driven by process"):
            sweep.run(sweep_spec(tmp_path), data, folder, lambda line: None)
        monkeypatch.undo()
    assert folder.exists("sweep/tune-1700000000000000000/tuner.json")
