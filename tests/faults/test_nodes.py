"""Nodes that join, drain and die, on one machine: an elastic run has the size that fits."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from training import check_ledger, step_records, training_spec, weights_hash, write_pictures

from raydc import engine, train
from raydc.data import prepared
from raydc.elastic import mailbox
from raydc.loop import worker
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.phase_timer import read_account

CONDITION_TIMEOUT_S = 180.0
NUM_ROWS = {"train": 6400, "validation": 60, "test": 40}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without a CPU, and a node of two CPUs one of which somebody else holds."""
    # Ray's note that there is a cluster would keep others on this machine from starting one.
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        engine.choose_auth(local=True)
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        cluster.add_node(num_cpus=2)
        engine.connect(cluster.address)
        holder = ray.remote(num_cpus=1)(mailbox.Mailbox).remote()
        ray.get(holder.collect.remote(), timeout=CONDITION_TIMEOUT_S)
        yield cluster
        engine.disconnect()
        cluster.shutdown()


class Watched:
    """A run in a thread, and what its files say. Leaving it lets the run finish quickly.

    Nodes can only be added in the main thread.
    """

    def __init__(self, spec: Spec, data: prepared.Prepared, run: Storage, hurry: Path) -> None:
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
        return [
            record for record in events.read(self.run_folder, "events") if record["kind"] == kind
        ]

    def next_attempt(self) -> dict[str, Any]:
        """Waits until it has begun and has a checkpoint of its own."""
        self.num_attempts += 1
        self.wait_for(lambda: len(self.events("attempt_started")) >= self.num_attempts, "attempt")
        attempt = self.events("attempt_started")[self.num_attempts - 1]
        self.wait_for(
            lambda: any(record["step"] > attempt["step"] for record in self.events("checkpoint")),
            "checkpoint",
        )
        return attempt


def drain(cluster: Cluster, node_id: str) -> None:
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "drain-node",
        "--address",
        cluster.address,
    ]
    command += [
        "--node-id",
        node_id,
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot",
    ]
    result = subprocess.run(
        [*command, "--deadline-remaining-seconds", "600"],
        capture_output=True,
        text=True,
        timeout=CONDITION_TIMEOUT_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def lose(node: Any, pids: list[int]) -> None:
    """As a power cut: the raylet, then all that it had started, workers of the run among them."""
    victims = children_of(node)
    assert set(victims) & set(pids)
    for pid in [node.all_processes["raylet"][0].process.pid, *victims]:
        os.kill(pid, signal.SIGKILL)


def elastic_spec(folder: Path, most: int, max_failures: int) -> Spec:
    """A run of steps of a tenth of a second, until the file `hurry` is there."""
    return training_spec(
        str(folder),
        model={"builder": "paced:network", "arguments": {"hurry": str(folder / "hurry")}},
        train={"epochs": 10},
        scaling={"num_workers": {"min": 1, "max": most}},
        checkpoint={"every_steps": 20},
        fault_tolerance={"max_failures": max_failures},
    )


def check_bits(run: Storage, spec: Spec, data: prepared.Prepared, folder: Path) -> None:
    """Weights and losses are those of a run in this process that nothing has disturbed."""
    check_ledger(run, spec, NUM_ROWS["train"])
    undisturbed = Storage(str(folder / "undisturbed"))
    state = worker.fit(spec, undisturbed, data.folder)
    assert weights_hash(run, state.step) == weights_hash(undisturbed, state.step)
    assert losses(run) == losses(undisturbed)


def losses(run: Storage) -> list[float]:
    return [record["loss"] for record in step_records(run)]


def recomputed_steps(run: Storage) -> list[int]:
    """How many steps each restart did again."""
    highest, lost = 0, []
    for record in events.read(run, "metrics"):
        if record["kind"] == "start":
            lost.append(highest - record["step"])
        highest = max(highest, record["step"])
    return lost[1:]


def children_of(node: Any) -> list[int]:
    """Processes that the raylet of a node has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It has just ended.
            if int(path.read_text().rpartition(")")[2].split()[1]) == raylet:
                found.append(int(path.parent.name))
    return found


def standing_by(node: Any) -> set[int]:
    """Worker processes of a node that do nothing."""
    found = set()
    for pid in children_of(node):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::IDLE"):
                found.add(pid)
    return found


def test_run_uses_free_room_and_survives_drain_and_loss(
    cluster: Cluster, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "tests" / "faults")
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS))
    run = Storage(str(tmp_path / "run"))
    (home,) = cluster.worker_nodes
    # One failure: the node that is lost without notice. Neither the drain nor the resize may count.
    spec = elastic_spec(tmp_path, most=2, max_failures=1)
    sizes: list[int] = []
    node = cluster.add_node(num_cpus=1)
    with Watched(spec, data, run, tmp_path / "hurry") as watched:
        sizes.append(watched.next_attempt()["world_size"])
        drain(cluster, node.node_id)
        sizes.append(watched.next_attempt()["world_size"])
        cluster.remove_node(node)
        node = cluster.add_node(num_cpus=1)
        attempt = watched.next_attempt()
        sizes.append(attempt["world_size"])
        watched.wait_for(lambda: bool(standing_by(home)), "process that stands by")
        ready = standing_by(home)
        lose(node, attempt["pids"])
        attempt = watched.next_attempt()
        sizes.append(attempt["world_size"])
        assert set(attempt["pids"]) <= ready
    result = watched.ended.result()
    assert sizes == [2, 1, 2, 1]
    assert result.restarts == 3
    causes = [record["cause"] for record in watched.events("attempt_ended")]
    # Who notices first that the node is gone: the controller, or the worker that had a peer there.
    assert causes in (["drain", "grow", "node"], ["drain", "grow", "worker"])
    kinds = [record["kind"] for record in events.read(run, "events")]
    assert (
        kinds.count("drain_noticed"),
        kinds.count("resize_planned"),
        kinds.count("node_lost"),
    ) == (1, 1, 1)
    lost = recomputed_steps(run)
    assert lost[:2] == [0, 0]
    # Lines of steps are written every few; the account counts those too that were not written when
    # a process died.
    account = read_account(run)
    assert lost[2] <= account.recomputed_steps <= spec.fault_tolerance.max_recomputed_steps
    assert account.restarts == 3
    assert account.seconds["resize"] > 0
    check_bits(run, spec, data, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_run_follows_nodes_that_join_and_leave(
    cluster: Cluster, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(root / "tests" / "faults")
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS))
    run, rng = Storage(str(tmp_path / "run")), random.Random(seed)
    spec = elastic_spec(tmp_path, most=3, max_failures=8)
    nodes: list[Any] = []
    happened: list[str] = []
    with Watched(spec, data, run, tmp_path / "hurry") as watched:
        attempt = watched.next_attempt()
        for _ in range(8):
            choices = (["add"] if len(nodes) < 2 else []) + (
                ["drain", "lose", "kill"] if nodes else []
            )
            happened.append(rng.choice(choices))
            if happened[-1] == "add":
                nodes.append(cluster.add_node(num_cpus=1))
            elif happened[-1] == "kill":
                os.kill(rng.choice(attempt["pids"]), signal.SIGKILL)
            else:
                node = nodes.pop(rng.randrange(len(nodes)))
                if happened[-1] == "lose":
                    lose(node, attempt["pids"])
                else:
                    drain(cluster, node.node_id)
            attempt = watched.next_attempt()
            assert attempt["world_size"] == 1 + len(nodes), happened
    watched.ended.result()
    causes = [record["cause"] for record in watched.events("attempt_ended")]
    assert [cause in ("grow", "drain") for cause in causes] == [
        one in ("add", "drain") for one in happened
    ]
    planned = [
        lost
        for lost, one in zip(recomputed_steps(run), happened, strict=True)
        if one in ("add", "drain")
    ]
    assert not any(planned)
    check_bits(run, spec, data, tmp_path)


@pytest.mark.soak
def test_nodes_resize_one_run_to_2_4_3_1_workers(
    cluster: Cluster, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "tests" / "faults")
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS))
    run, spec = Storage(str(tmp_path / "run")), elastic_spec(tmp_path, most=4, max_failures=0)
    small = cluster.add_node(num_cpus=1)
    with Watched(spec, data, run, tmp_path / "hurry") as watched:
        sizes = [watched.next_attempt()["world_size"]]
        large = cluster.add_node(num_cpus=2)
        sizes.append(watched.next_attempt()["world_size"])
        for node in (small, large):
            drain(cluster, node.node_id)
            sizes.append(watched.next_attempt()["world_size"])
    watched.ended.result()
    assert sizes == [2, 4, 3, 1]
    assert [record["cause"] for record in watched.events("attempt_ended")] == [
        "grow",
        "drain",
        "drain",
    ]
    assert recomputed_steps(run) == [0, 0, 0]
    assert read_account(run).recomputed_steps == 0
    check_bits(run, spec, data, tmp_path)
