"""kill -9 of a worker and of the driver: the run ends with the weights of an undisturbed run."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from training import (
    NUM_ROWS,
    check_ledger,
    event_kinds,
    training_spec,
    weights_hash,
    write_pictures,
)

from raydc import engine, train
from raydc import spec as specs
from raydc.data import prepared
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.phase_timer import read_account
from raydc.tracking.time_account import Account

CONDITION_TIMEOUT_S = 240.0
STALL_S = 3.0
# Cheap changes: where a kill falls follows from how long steps take.
AUGMENT: dict[str, Any] = {
    "horizontal_flip": True,
    "transforms": ["dying:dim"],
    "mixup": 0.4,
    "cutmix": 1.0,
}


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[engine.Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        yield engine.connect(num_cpus=4)
        engine.disconnect()


def run_with_kills(
    folder: Path,
    data: prepared.Prepared,
    faults: dict[str, list[int]],
    epochs: int = 3,
    stall_s: float = 0.0,
) -> tuple[Storage, Any, specs.Spec]:
    """Trains on two workers that die where `faults` says, and wait once for their rows."""
    folder.mkdir()
    spec = spec_of(folder, faults, epochs, stall_s)
    run = Storage(str(folder / "run"))
    return run, train.run(spec, data, run, lambda line: None), spec


def weights_undisturbed(folder: Path, data: prepared.Prepared, epochs: int = 3) -> str:
    """Hash of the weights after a run in this process, which computes what two workers compute."""
    folder.mkdir()
    run = Storage(str(folder / "run"))
    state = worker.fit(spec_of(folder, {}, epochs), run, data.folder)
    return weights_hash(run, state.step)


def spec_of(
    folder: Path, faults: dict[str, list[int]], epochs: int, stall_s: float = 0.0
) -> specs.Spec:
    arguments = {"folder": str(folder), "faults": faults, "stall_s": stall_s}
    model = {"builder": "dying:network", "arguments": arguments}
    num_kills = sum(len(calls) for calls in faults.values())
    return training_spec(
        str(folder),
        name=folder.name,
        model=model,
        data={"augment": AUGMENT},
        train={"epochs": epochs},
        scaling={"num_workers": 2},
        fault_tolerance={"max_failures": num_kills},
    )


@pytest.mark.usefixtures("ray_engine")
@pytest.mark.parametrize(
    ("rank", "call", "goes_on_at"),
    # Another rank dies with its node in tests/faults/test_nodes.py.
    [(0, 6, 4), pytest.param(1, 11, 8, marks=pytest.mark.soak)],
)
def test_killed_worker(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    call: int,
    goes_on_at: int,
) -> None:
    monkeypatch.chdir(root / "tests" / "faults")
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    run, result, spec = run_with_kills(
        tmp_path / f"killed-{rank}", data, {str(rank): [call]}, stall_s=STALL_S
    )
    assert (tmp_path / f"killed-{rank}" / f"fault-{rank}-0").exists()
    assert (tmp_path / f"killed-{rank}" / "stalled").exists()
    assert (result.restarts, result.reason) == (1, "completed")
    starts = [record["step"] for record in events.read(run, "metrics") if record["kind"] == "start"]
    assert starts[0] == 0
    # The newest state is from before the kill; whether it had arrived is up to the kill.
    assert starts[1] in (goes_on_at, goes_on_at - 4, 5, 7, 10)
    check_ledger(run, spec)
    assert weights_hash(run, result.steps) == weights_undisturbed(tmp_path / "undisturbed", data)
    account = read_account(run)
    check_account(run, account, result.steps)
    # Rank 0 may learn of the death of another before it has counted the step before.
    lost = call - 1 - starts[1]
    assert account.recomputed_steps in ({lost} if rank == 0 else {lost - 1, lost})
    wait_for_metrics(spec.name, account)


def check_account(run: Storage, account: Account, num_steps: int) -> None:
    """Every second has one name: they add up to the wall time, and a stall is data wait."""
    moments = {record["kind"]: record["time_s"] for record in events.read(run, "events")}
    # The driver's first and last event; moments in the log are rounded to milliseconds.
    wall_s = moments["driver_ended"] - moments["run_started"]
    assert account.wall_s == pytest.approx(wall_s, abs=0.01)
    assert account.useful_steps == num_steps
    assert account.seconds["data_wait"] >= STALL_S
    assert account.seconds["start_up"] > 0
    assert (account.seconds["recomputed_step"] > 0) == (account.recomputed_steps > 0)
    assert (account.seconds["resize"], account.restarts) == (0.0, 1)


def wait_for_metrics(run: str, account: Account) -> None:
    """Until Ray's metrics agent exports what the account says."""
    import ray

    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    expected = {
        ("restarts", ""): account.restarts,
        ("steps", "useful"): account.useful_steps,
        ("steps", "recomputed"): account.recomputed_steps,
        ("rows", ""): account.rows,
        # Without the export of the model and the end of the driver, which no worker publishes.
        ("time_seconds", "data_wait"): account.seconds["data_wait"],
        ("time_seconds", "recomputed_step"): account.seconds["recomputed_step"],
    }
    expected = {key: value for key, value in expected.items() if value}
    deadline = time.monotonic() + CONDITION_TIMEOUT_S
    while True:
        with urllib.request.urlopen(url, timeout=CONDITION_TIMEOUT_S) as answer:
            lines = [line for line in answer.read().decode().splitlines() if f'run="{run}"' in line]
        found = dict(map(read_metric, lines))
        if all(found.get(key) == pytest.approx(value) for key, value in expected.items()):
            return
        assert time.monotonic() < deadline, (found, expected)
        time.sleep(0.2)


def read_metric(line: str) -> tuple[tuple[str, str], float]:
    name = re.match(r"ray_raydc_(\w+)_total\{", line)
    kind = re.search(r'(?:phase|kind)="(\w+)"', line)
    assert name is not None
    return (name[1], kind[1] if kind else ""), float(line.rpartition(" ")[2])


@pytest.mark.soak
@pytest.mark.usefixtures("ray_engine")
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_worker_recomputes_at_most_ten_steps(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.chdir(root / "tests" / "faults")
    num_rows = {"train": 32 * 80, "validation": 60, "test": 40}
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data")), num_rows=num_rows))
    run, (waits_at, dies_at) = Storage(str(tmp_path / "run")), (20, 58)
    waits = {
        "call": waits_at,
        "file": str(tmp_path / "run" / "events.jsonl"),
        "text": "recent_state",
        "step_s": 0.05,
    }
    arguments = {"folder": str(tmp_path), "faults": {str(rank): [dies_at]}, "waits": waits}
    spec = training_spec(
        str(tmp_path),
        model={"builder": "dying:network", "arguments": arguments},
        train={"epochs": 1},
        scaling={"num_workers": 2},
        checkpoint={"every_steps": 10_000},
    )
    result = train.run(spec, data, run, lambda line: None)
    assert (tmp_path / f"fault-{rank}-0").exists()
    assert (result.restarts, result.steps) == (1, 80)
    starts = [
        record for record in events.read(run, "events") if record["kind"] == "attempt_started"
    ]
    assert [start["source"] for start in starts] == ["storage", "memory"]
    assert dies_at - 1 - 10 <= starts[1]["step"] <= dies_at
    check_ledger(run, spec, num_rows["train"])


@pytest.mark.soak
@pytest.mark.usefixtures("ray_engine")
@pytest.mark.parametrize("seed", range(3))
def test_worker_killed_repeatedly_ends_as_undisturbed(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(root / "tests" / "faults")
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    rng = random.Random(seed)
    faults = {str(rank): sorted(rng.sample(range(1, 30), 2)) for rank in range(2)}
    run, result, spec = run_with_kills(tmp_path / "killed", data, faults, epochs=8)
    fired = sorted(path.name for path in (tmp_path / "killed").glob("fault-*"))
    assert fired
    assert 1 <= result.restarts <= len(fired)
    check_ledger(run, spec)
    undisturbed = weights_undisturbed(tmp_path / "undisturbed", data, epochs=8)
    assert weights_hash(run, result.steps) == undisturbed


# The driver ---------------------------------------------------------------------------------------


def write_project(folder: Path, fault_folder: Path) -> Path:
    """Writes a table and a spec that trains on it; the worker waits in its second epoch."""
    folder.mkdir()
    rng = random.Random(0)
    lines = ["a,b,label"]
    for _ in range(sum(NUM_ROWS.values())):
        a, b = rng.uniform(-1, 1), rng.uniform(-1, 1)
        lines.append(f"{a:.4f},{b:.4f},{'yes' if a + b > 0 else 'no'}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    arguments = {"folder": str(fault_folder), "faults": {"0": [12]}, "fault": "wait"}
    value = {
        "name": "driven",
        "storage": str(folder / "runs"),
        "data": {"source": "rows.csv"},
        "model": {"builder": "dying:network", "arguments": arguments},
        "train": {"epochs": 3, "global_batch_size": 32, "log_every_steps": 3},
        "scaling": {"num_workers": 1},
        "checkpoint": {"every_steps": 4},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(value))
    return folder / "runs" / "runs" / "driven"


def train_command(folder: Path, root: Path, *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(root / "tests" / "faults")}
    command = [
        sys.executable,
        "-c",
        "from raydc.cli import main; main()",
        "train",
        "spec.yaml",
        *flags,
    ]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + CONDITION_TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_driver_resumes_and_skips_a_flipped_byte(tmp_path: Path, root: Path) -> None:
    run_path = write_project(tmp_path / "killed", tmp_path / "faults")
    (tmp_path / "faults").mkdir()
    process = train_command(tmp_path / "killed", root)
    wait_for((tmp_path / "faults" / "fault-0-0").exists, process)
    # Checkpoints are written during the steps: the one of step 8 may not be complete yet.
    wait_for((run_path / "checkpoints" / "step_00000008" / "MANIFEST.json").exists, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(CONDITION_TIMEOUT_S) == -signal.SIGKILL

    run = Storage(str(run_path))
    drivers = list((run_path / "ray").iterdir())
    assert len(drivers) == 1
    # Ray's own record of the run, cut in half: each driver has another one, so it does not matter.
    (drivers[0] / "checkpoint_manager_snapshot.json").write_text(
        '{"latest_checkpoint_result": {"check'
    )
    newest = max(name for name in run.names("checkpoints") if not name.endswith(".tmp"))
    path = run_path / "checkpoints" / newest / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    resumed = train_command(tmp_path / "killed", root, "--resume")
    output = resumed.communicate(timeout=CONDITION_TIMEOUT_S)[0]
    assert resumed.returncode == 0, output
    assert f"{newest} does not verify and is skipped" in output
    assert "checkpoint_skipped" in event_kinds(run)
    starts = [record["step"] for record in events.read(run, "metrics") if record["kind"] == "start"]
    assert 0 < starts[1] < int(newest.removeprefix("step_"))

    spec = specs.resolve(specs.from_dict(yaml.safe_load(run.read_bytes("resolved.yaml"))))
    data = prepared.load(Storage(str(next((tmp_path / "killed" / "runs" / "data").iterdir()))))
    check_ledger(run, spec, data.num_rows["train"])
    # The fault fires once, so the calling process trains undisturbed, and computes what a Ray
    # worker computes.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "tests" / "faults")
        undisturbed = Storage(str(tmp_path / "undisturbed"))
        state = worker.fit(spec, undisturbed, data.folder)
    assert weights_hash(run, state.step) == weights_hash(undisturbed, state.step)
