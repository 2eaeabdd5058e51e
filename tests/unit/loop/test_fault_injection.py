"""Faults fire once, at their place, in one worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydc.loop import fault_injection
from raydc.loop.fault_injection import Fault, FaultInjector
from raydc.storage import Storage


def test_fault_fires_once_at_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(
        "raydc.loop.fault_injection.os.kill", lambda pid, signal: killed.append(signal)
    )
    folder = Storage(str(tmp_path / "run"))
    one, two, three = (
        Fault("1", "worker", "step", 5, rank=3),
        Fault("2", "worker", "moved", 4),
        Fault("3", "worker", "restored", 2),
    )
    fault_injection.plan(folder, [one, two, three])
    other, mine = FaultInjector(folder, 0, 2), FaultInjector(folder, 1, 2)
    for step in range(1, 8):
        mine.before_step(step)
        mine.reached("moved")
        assert sorted(fault_injection.fired(folder)) == (["1"] if step >= 5 else [])
    other.before_step(4)
    other.reached("moved")
    assert sorted(fault_injection.fired(folder)) == ["1"]
    other.before_step(5)
    other.reached("copied")
    other.reached("moved")
    other.restored(1)
    assert sorted(fault_injection.fired(folder)) == ["1", "2"]
    other.restored(2)
    for _ in range(2):
        FaultInjector(folder, 1, 2).before_step(5)
    assert sorted(fault_injection.fired(folder)) == ["1", "2", "3"]
    assert len(killed) == 3
    assert fault_injection.fired(folder)["1"]["step"] == 4


def test_run_without_a_schedule_has_no_faults(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    nothing = FaultInjector(folder, 0, 1)
    nothing.before_step(1)
    nothing.restored(1)
    nothing.reached("moved")
    assert folder.names() == []
