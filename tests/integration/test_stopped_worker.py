"""A worker that is stopped for seconds: they are not useful steps, whichever worker it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc import train
from raydc.data import prepared
from raydc.storage import Storage
from raydc.tracking import events, standstill
from raydc.tracking.phase_timer import read_account

WAIT_S = 120.0
STOPPED_S = standstill.LEAST_S + 1.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.05)


def stop_for(pid: int, seconds: float) -> None:
    """Stops a process until a moment has come."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until_s = time.monotonic() + seconds
        wait_for(lambda: time.monotonic() >= until_s, "the end of the stop")
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.soak
@pytest.mark.usefixtures("ray_engine")
def test_stopped_worker_is_no_useful_step(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "tests" / "faults")  # Where the builder is.
    num_rows = {"train": 3200, "validation": 60, "test": 40}
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data")), num_rows=num_rows))
    hurry, run = tmp_path / "hurry", Storage(str(tmp_path / "run"))
    spec = training_spec(
        str(tmp_path),
        model={"builder": "paced:network", "arguments": {"hurry": str(hurry)}},
        train={"epochs": 2},
        scaling={"num_workers": 2},
    )
    lines: list[str] = []

    def known(kind: str) -> list[dict[str, Any]]:
        return [record for record in events.read(run, "events") if record["kind"] == kind]

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(train.run, spec, data, run, lines.append)
        try:
            wait_for(lambda: bool(known("checkpoint")) or ended.done(), "a checkpoint")
            (attempt,) = known("attempt_started")
            for rank in (1, 0):
                stop_for(attempt["pids"][rank], STOPPED_S)
                wait_for(
                    lambda rank=rank: rank in {one["rank"] for one in known("stood_still")},
                    f"rank {rank} says that it stood still",
                )
        finally:
            hurry.touch()
    assert ended.result().restarts == 0
    account = read_account(run)
    # A tick may have been due up to half a second after each stop began.
    assert account.seconds["stalled"] >= 2 * (STOPPED_S - 0.5)
    moments = {record["kind"]: record["time_s"] for record in events.read(run, "events")}
    wall_s = moments["driver_ended"] - moments["run_started"]
    assert account.wall_s == pytest.approx(wall_s, abs=0.01)
    assert any(line.startswith("train     worker 1 stood still for ") for line in lines)
