"""Serve starts beside a training: at once if it is short, else shortly before its end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc.data import prepared
from raydc.errors import ServeError
from raydc.serve.control import application
from raydc.serve.control.early_start import EarlyStart
from raydc.spec.sections import Serve
from raydc.storage import Storage


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that have started Serve."""
    found: list[str] = []
    monkeypatch.setattr(
        application, "listen", lambda _: found.append(threading.current_thread().name)
    )
    return found


def early_start(folder: Path, max_steps: int) -> EarlyStart:
    """Of a training of so many steps, on rows of 64 bytes."""
    train = {"max_steps": max_steps, "epochs": None, "global_batch_size": 10}
    data = write_pictures(Storage(str(folder / "data")))
    return EarlyStart(training_spec(str(folder), train=train), prepared.load(data))


def progress(step: int, rows_per_s: float) -> dict[str, Any]:
    return {"kind": "progress", "step": step, "total_steps": 1000, "rows_per_s": rows_per_s}


def test_short_training_starts_it_at_once_and_only_once(tmp_path: Path, starts: list[str]) -> None:
    early = early_start(tmp_path, max_steps=5)
    early.wait()
    assert starts == ["raydc-early-serve"]
    early.watch(progress(999, 1000.0))
    early.wait()
    assert len(starts) == 1


def test_long_training_starts_it_near_its_end(tmp_path: Path, starts: list[str]) -> None:
    early = early_start(tmp_path, max_steps=10**9)
    early.watch({"kind": "epoch", "step": 1000})
    early.watch(progress(0, 0.0))
    # 500 steps of 10 rows are left, which take 50 s.
    early.watch(progress(500, 100.0))
    early.wait()
    assert starts == []
    early.watch(progress(900, 100.0))
    early.wait()
    assert starts == ["raydc-early-serve"]


def test_leaving_waits_for_a_start_that_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray must not end in the middle of it."""
    gate, done = threading.Event(), []

    def listen(_: Serve) -> None:
        gate.wait(60)
        done.append("started")

    monkeypatch.setattr(application, "listen", listen)
    early = early_start(tmp_path, max_steps=5)
    joined = early._thread.join

    def join(timeout: float | None = None) -> None:
        gate.set()
        joined(timeout)

    monkeypatch.setattr(early._thread, "join", join)
    early.leave()
    assert done == ["started"]


def test_start_that_fails_is_left_to_the_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Serve) -> None:
        raise ServeError("the port is taken")

    monkeypatch.setattr(application, "listen", refuse)
    early = early_start(tmp_path, max_steps=5)
    early.wait()
