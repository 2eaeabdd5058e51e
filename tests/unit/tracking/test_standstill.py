"""A process notices that it stood still, and for how long."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from raydc.errors import RunError
from raydc.tracking.standstill import StandstillWatch

TICK_S = 0.5


class Ticks:
    """A clock that runs only while somebody waits, longer than asked if a tick says so."""

    def __init__(self, late_s: list[float]) -> None:
        self.late_s = late_s
        self.seconds = 100.0

    def wait(self, seconds: float) -> bool:
        if not self.late_s:
            return True
        self.seconds += seconds + self.late_s.pop(0)
        return False

    def now_s(self) -> float:
        return self.seconds


def watch(late_s: list[float], record_event: Any) -> None:
    ticks = Ticks(late_s)
    StandstillWatch(3, record_event, ticks.wait, ticks.now_s, ticks.now_s).run()


def test_late_tick_is_a_standstill_from_when_it_was_due() -> None:
    found: list[tuple[str, dict[str, float]]] = []
    watch([0.0, 1.0, 20.0, 0.0, 2.5], lambda kind, **fields: found.append((kind, fields)))
    assert [kind for kind, _ in found] == ["stood_still"] * 2
    first, second = (fields for _, fields in found)
    # Two ticks and a second before, and this one was due half a second later.
    assert first == {"rank": 3, "for_s": 20.0, "since_s": 102.5, "until_s": 122.5}
    assert second == {"rank": 3, "for_s": 2.5, "since_s": 123.5, "until_s": 126.0}


@pytest.mark.parametrize("error", [RunError("replaced", ""), OSError("full")])
def test_event_that_cannot_be_recorded_ends_nothing(error: Exception) -> None:
    asked = []

    def refuse(kind: str, **fields: Any) -> None:
        asked.append(kind)
        raise error

    watch([5.0, 5.0], refuse)
    assert asked == ["stood_still"]


def test_stopped_process_finds_it_out() -> None:
    code = """
import os, signal, subprocess, threading
from raydc.tracking.standstill import StandstillWatch
found = threading.Event()
def record(kind, **fields):
    print(fields["until_s"] - fields["since_s"], flush=True)
    found.set()
with StandstillWatch(0, record):
    # Another process wakes this one up.
    subprocess.Popen(["sh", "-c", f"sleep 3.5; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    assert found.wait(60)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stderr
    assert 2.0 <= float(ended.stdout) < 60.0
