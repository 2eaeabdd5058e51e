"""Nodes that come, go with notice and go without, on one machine: an elastic run has the size that fits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from training import check_ledger, training_spec, weights_hash, write_pictures

from raydc import board, engine, events, train, worker
from raydc.data import prepare
from raydc.spec.sections import Spec
from raydc.storage import Storage

CONDITION_TIMEOUT_S = 180.0
NUM_ROWS = {"train": 6400, "validation": 60, "test": 40}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without a CPU, and a node of two CPUs one of which somebody else holds."""
    engine.choose_auth(local=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    engine.connect(cluster.address)
    holder = ray.remote(num_cpus=1)(board.Board).remote()
    ray.get(holder.collect.remote(), timeout=CONDITION_TIMEOUT_S)
    yield cluster
    engine.disconnect()
    cluster.shutdown()


class Watched:
    """A run in a thread of its own, and what its files say. Leaving it lets the run hurry to its end.

    Nodes can only be added in the main thread.
    """

    def __init__(self, spec: Spec, data: prepare.Prepared, run: Storage, hurry: Path) -> None:
        self.run_folder, self.hurry = run, hurry
        self.num_attempts = 0
        self.pool = ThreadPoolExecutor(1)
        self.ended = self.pool.submit(train.run, spec, data, run, print)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.hurry.touch()
        self.pool.shutdown(wait=True)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + CONDITION_TIMEOUT_S
        while not condition():
            if self.ended.done():
                raise AssertionError(f"ended before {what}: {self.ended.result()}")
            assert time.monotonic() < deadline, f"no {what}"
            time.sleep(0.05)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in events.read(self.run_folder, "events") if record["kind"] == kind]

    def next_attempt(self) -> dict[str, Any]:
        """Waits until it has begun and has a checkpoint of its own."""
        self.num_attempts += 1
        self.wait_for(lambda: len(self.events("attempt_started")) >= self.num_attempts, "attempt")
        attempt = self.events("attempt_started")[self.num_attempts - 1]
        self.wait_for(
            lambda: any(record["step"] > attempt["step"] for record in self.events("checkpoint")), "checkpoint"
        )
        return attempt


def drain(cluster: Cluster, node_id: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
    command += ["--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    result = subprocess.run(
        [*command, "--deadline-remaining-seconds", "600"], capture_output=True, text=True, timeout=CONDITION_TIMEOUT_S
    )
    assert result.returncode == 0, result.stdout + result.stderr


def lose(node: Any, pids: list[int]) -> None:
    """As a power cut: the raylet, then the workers of the run that it had started."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = [
        pid for pid in pids if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == raylet
    ]
    assert children
    for pid in [raylet, *children]:
        os.kill(pid, signal.SIGKILL)


def test_room_drain_and_loss(cluster: Cluster, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "tests" / "faults")
    data = prepare.load(write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS))
    run, hurry = Storage(str(tmp_path / "run")), tmp_path / "hurry"
    spec = training_spec(
        str(tmp_path),
        model={"builder": "paced:network", "arguments": {"hurry": str(hurry)}},
        train={"epochs": 10},
        scaling={"num_workers": {"min": 1, "max": 2}},
        checkpoint={"every_steps": 20},
        # For the node that is lost without notice. Neither the drain nor the two resizes may count.
        fault_tolerance={"max_failures": 1},
    )
    sizes: list[int] = []
    with Watched(spec, data, run, hurry) as watched:
        sizes.append(watched.next_attempt()["world_size"])
        node = cluster.add_node(num_cpus=1)
        sizes.append(watched.next_attempt()["world_size"])
        drain(cluster, node.node_id)
        sizes.append(watched.next_attempt()["world_size"])
        cluster.remove_node(node)
        node = cluster.add_node(num_cpus=1)
        attempt = watched.next_attempt()
        sizes.append(attempt["world_size"])
        lose(node, attempt["pids"])
        sizes.append(watched.next_attempt()["world_size"])
    result = watched.ended.result()
    assert sizes == [1, 2, 1, 2, 1]
    assert result.restarts == 4
    check_ledger(run, spec, NUM_ROWS["train"])

    causes = [record["cause"] for record in watched.events("attempt_ended")]
    # Who notices first that the node is gone: the controller, or the worker that had a peer there.
    assert causes in (["grow", "drain", "grow", "node"], ["grow", "drain", "grow", "worker"])
    left = [record["step"] for record in watched.events("resize")]
    starts = [record["step"] for record in watched.events("attempt_started")]
    assert starts[1:4] == left  # No step is done twice.
    metrics = list(events.read(run, "metrics"))
    done = [
        max(r["step"] for r in metrics[: metrics.index(m)] if r["kind"] == "step")
        for m in metrics
        if m["kind"] == "start" and m["step"]
    ]
    assert done[:3] == left
    assert 0 <= done[3] - starts[4] < 20 + spec.train.log_every_steps
    kinds = [record["kind"] for record in events.read(run, "events")]
    assert (kinds.count("drain_noticed"), kinds.count("resize_planned"), kinds.count("node_lost")) == (1, 2, 1)

    undisturbed = Storage(str(tmp_path / "undisturbed"))
    state = worker.fit(spec, undisturbed, data.folder)
    assert weights_hash(run, state.step) == weights_hash(undisturbed, state.step)
