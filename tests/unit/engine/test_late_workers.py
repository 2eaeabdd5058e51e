"""Processes of a session that has ended are killed, after its raylet, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from raydc.engine import internals, late_workers
from raydc.engine.late_workers import end_late_workers


def test_only_processes_of_that_session_are_killed() -> None:
    code = "import sys; sys.stdin.read()"
    mine, others, mentions = (
        subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE)
        for arguments in (
            ("--raylet-name=x", "--session-name=session_1_2"),
            ("--session-name=session_1_23",),
            ("/tmp/ray/session_1_2/logs",),
        )
    )
    assert end_late_workers("session_1_2", set()) == [mine.pid]
    assert mine.wait() == -signal.SIGKILL
    for one in (others, mentions):
        one.communicate()
        assert one.returncode == 0
    assert end_late_workers("session_1_2", {(os.getpid(), "an earlier process")}) == []


def test_worker_that_hides_its_arguments_is_known_by_its_raylet(tmp_path: Path) -> None:
    raylet = tmp_path / "raylet"
    raylet.symlink_to("/bin/sh")
    command = [str(raylet), "-c", "sleep 1000 & echo $!; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        # Other tests may have started a Ray in this process, whose workers are found too.
        known = {one for one in late_workers.find_workers() if one[0] == worker}
        assert len(known) == 1
        # As the raylet of this process is killed before its workers are.
        parent.kill()
        parent.wait()
        assert end_late_workers("session_1_2", known) == [worker]
    assert worker not in {number for number, _ in late_workers.find_workers()}


def test_end_of_the_own_ray_ends_late_workers_after_the_raylet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[object] = []
    node = SimpleNamespace(
        get_session_dir_path=lambda: "/tmp/ray/session_1_2",
        kill_all_processes=lambda **given: done.append(given),
    )
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    monkeypatch.setattr(late_workers, "find_workers", lambda: done.append("found") or "workers")
    monkeypatch.setattr(late_workers, "end_late_workers", lambda *given: done.append(given))
    internals.end_own_ray_at_once()
    node.kill_all_processes(check_alive=True)
    assert done == [
        "found",
        {"check_alive": False, "allow_graceful": False},
        ("session_1_2", "workers"),
    ]
