"""A `raydc chaos` that is interrupted leaves no driver, no node and no claim on its run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.cluster_utils
from small_runs import spec_of

from raydc import engine
from raydc.chaos import drill as drills
from raydc.chaos import shrink
from raydc.chaos.drill import Drill
from raydc.chaos.nodes import Nodes
from raydc.data import prepared
from raydc.engine import interruption, late_workers
from raydc.storage import Storage
from raydc.tracking import lease

LONG_S = 60.0


def small_drill(tmp_path: Path, data: prepared.Prepared) -> Drill:
    spec = shrink.shrink_spec(spec_of(tmp_path, "good"), 12, 1)
    return Drill(spec, Storage(str(tmp_path / "run")), data.folder, "")


def test_driver_ends_though_the_interruption_comes_right_after_its_start(
    tmp_path: Path, data: prepared.Prepared, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "tests")  # Where drivers find the builders.
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __enter__(self) -> Any:
            started.append(self)
            assert self.stdin is not None
            # What the end of `raydc chaos` does, even by SIGKILL.
            self.stdin.close()
            raise interruption.Interruption(signal.SIGTERM)

    monkeypatch.setattr(drills.subprocess, "Popen", Interrupted)
    with pytest.raises(interruption.Interruption):
        small_drill(tmp_path, data).run()
    # By itself it would train to the end, and exit with 0.
    assert started[0].wait(LONG_S) == 1


def test_run_of_a_killed_driver_is_not_held(
    tmp_path: Path, data: prepared.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    drill = small_drill(tmp_path, data)

    def interrupt(*_: object) -> None:
        drill.folder.write_json(lease.FILE, {"token": "of the driver"})
        raise interruption.Interruption(signal.SIGINT)

    monkeypatch.setattr(drill, "_run_driver", interrupt)
    with pytest.raises(interruption.Interruption):
        drill.run()
    assert not drill.folder.exists(lease.FILE)


class FakeCluster:
    """Stands in for Ray's own, which takes SIGTERM for each node that it starts."""

    def __init__(self) -> None:
        self.head_node: Any = None
        self.worker_nodes: set[Any] = set()
        self.most_nodes = 9
        self.done: list[str] = []
        self.was_idle: list[bool] = []

    def add_node(self, **_: object) -> None:
        ray._private.utils.set_sigterm_handler(lambda *_: os._exit(1))
        assert interruption._catcher is not None
        self.was_idle.append(interruption._catcher._is_idle)
        if len(self.worker_nodes) == self.most_nodes:
            raise interruption.Interruption(signal.SIGTERM)
        if self.head_node is None:
            self.head_node = SimpleNamespace(get_session_dir_path=lambda: "/tmp/ray/session_1_2")
        else:
            self.worker_nodes.add(object())

    def remove_node(self, node: Any, allow_graceful: bool) -> None:
        assert not allow_graceful
        if node is self.head_node:
            self.done.append("head")
            return
        self.worker_nodes.remove(node)
        self.done.append("node")

    def shutdown(self) -> None:
        self.done.append("shutdown")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    cluster = FakeCluster()
    monkeypatch.setattr(ray.cluster_utils, "Cluster", lambda: cluster)
    monkeypatch.setattr(engine, "choose_auth", lambda local: None)
    monkeypatch.setattr(engine, "disconnect", lambda: cluster.done.append("left"))
    monkeypatch.setattr(late_workers, "find_workers", lambda: {(1, "x")})
    monkeypatch.setattr(
        late_workers, "end_late_workers", lambda *given: cluster.done.append(f"killed {given}")
    )
    return cluster


LAST = ["head", "shutdown", "killed ('session_1_2', {(1, 'x')})"]


def test_nodes_do_not_take_sigterm_and_end_with_their_workers(fake: FakeCluster) -> None:
    with interruption.catch_signals():
        ours = signal.getsignal(signal.SIGTERM)
        with Nodes(1) as nodes:
            assert signal.getsignal(signal.SIGTERM) == ours
            nodes._add()
            assert signal.getsignal(signal.SIGTERM) == ours
    assert fake.done == ["left", "node", "node", *LAST]
    # Ray's start waits in native code, and nothing is at stake yet.
    assert fake.was_idle == [True, True, False]


def test_interruption_while_nodes_start_ends_those_that_are_there(fake: FakeCluster) -> None:
    fake.most_nodes = 1
    with pytest.raises(interruption.Interruption), interruption.catch_signals():
        Nodes(2).__enter__()
    assert fake.done == ["left", "node", *LAST]
