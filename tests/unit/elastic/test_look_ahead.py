"""Parts of the later stages that start beside a training: what begins, and when."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc.data import prepared
from raydc.elastic import preload
from raydc.elastic.look_ahead import LookAhead
from raydc.engine import Engine
from raydc.run_context import RunContext
from raydc.storage import Storage

EPOCH = {"kind": "epoch", "step": 1}


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that have imported torchmetrics."""
    found: list[str] = []
    real = importlib.import_module

    def note(name: str, package: str | None = None) -> ModuleType:
        if name == "torchmetrics.classification":
            found.append(threading.current_thread().name)
        return real(name, package)

    monkeypatch.setattr("importlib.import_module", note)
    return found


def ahead_of(folder: Path, **sections: Any) -> LookAhead:
    spec = training_spec(str(folder), **sections)
    context = RunContext(spec, lambda: Engine(True, "local", 1, {"CPU": 2.0}), lambda _: None)
    return LookAhead(context, prepared.load(write_pictures(Storage(str(folder / "data")))))


def test_scores_are_imported_once_after_the_first_steps(tmp_path: Path, imports: list[str]) -> None:
    ahead = ahead_of(tmp_path, scaling={"num_workers": 1})
    ahead.watch({"kind": "attempt_started", "step": 0})
    ahead.wait_for_imports()
    assert imports == []
    ahead.watch(EPOCH)
    ahead.wait_for_imports()
    ahead.watch(EPOCH)
    ahead.wait_for_imports()
    assert imports == ["raydc-imports"]


def test_steps_of_this_process_have_no_import_beside_them(
    tmp_path: Path, imports: list[str]
) -> None:
    ahead = ahead_of(tmp_path, scaling={"num_workers": 0})
    ahead.watch(EPOCH)
    ahead.wait_for_imports()
    assert imports == []


def test_workers_import_scores_only_if_they_compute_them() -> None:
    assert preload.entry_of(["accuracy", "f1"]) == "raydc.elastic.preload.run"
    assert preload.entry_of(["accuracy", "ece"]) == "raydc.elastic.preload.run_with_scores"
