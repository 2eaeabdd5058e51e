"""Nodes of a Ray on this machine that may be killed and drained: real raylets, one CPU each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from raydc import engine
from raydc.engine import interruption, late_workers, ray_start
from raydc.errors import ChaosError
from raydc.loop.fault_injection import DRAIN

_CPUS_OF_NODE = 1
_DRAIN_TIMEOUT_S = 60.0
# Long, so that the run leaves the node because it fits elsewhere, not because the deadline is near.
_DRAIN_DEADLINE_S = 600


class Nodes:
    """A head without CPUs and some nodes of one CPU each. A context manager: they end with it.

    Args:
        num_nodes: Nodes besides the head.
    """

    def __init__(self, num_nodes: int) -> None:
        self._num_nodes = num_nodes
        self._cluster: Any = None

    @property
    def address(self) -> str:
        """Address of the head."""
        return str(self._cluster.address)

    def __enter__(self) -> Nodes:
        from ray.cluster_utils import Cluster

        # Before the first raylet starts: it reads the choice from the environment.
        engine.choose_auth(local=True)
        self._cluster = Cluster()
        try:
            with interruption.idle():
                # It has no CPU, so that no worker runs where a kill would end the cluster.
                self._add(num_cpus=0, include_dashboard=False)
                for _ in range(self._num_nodes):
                    self._add()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        # A signal in here would leave nodes to Python's end, which asks each process first.
        with interruption.deferred():
            engine.disconnect()
            head, nodes = self._cluster.head_node, list(self._cluster.worker_nodes)
            workers = late_workers.find_workers()
            for node in (*nodes, head) if head else nodes:
                self._cluster.remove_node(node, allow_graceful=False)
            self._cluster.shutdown()
            if head:
                session = os.path.basename(head.get_session_dir_path())
                late_workers.end_late_workers(session, workers)

    def remove(self, kind: str, pid: int) -> None:
        """Kills or drains the node of a worker, and adds a new node.

        Args:
            kind: Kind of the fault: node or drain.
            pid: Process id of the worker.

        Raises:
            ChaosError: The worker runs on none of these nodes, or Ray does not drain it.
        """
        # A raylet is the parent of its workers.
        raylet = _parent(pid)
        found = [node for node in self._cluster.worker_nodes if _raylet(node) == raylet]
        if not found:
            raise ChaosError(f"process {pid} runs on none of the nodes that may be removed")
        if kind == DRAIN:
            # First, so that the run has somewhere to go.
            self._add()
            self._drain(found[0])
            return
        # Workers too, as if the machine had lost power: orphans would notice and exit cleanly.
        for victim in (raylet, *_children(raylet)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self._cluster.remove_node(found[0], allow_graceful=False)
        self._add()

    def _add(self, **options: Any) -> None:
        # Ray would take SIGTERM for each node that it starts.
        with ray_start.keep_handlers():
            self._cluster.add_node(**{"num_cpus": _CPUS_OF_NODE, **options})

    def _drain(self, node: Any) -> None:
        # Ray has no public Python call for it.
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "drain-node",
            "--address",
            self.address,
        ]
        command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += [
            "--reason-message",
            "raydc chaos",
            "--deadline-remaining-seconds",
            str(_DRAIN_DEADLINE_S),
        ]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_DRAIN_TIMEOUT_S, check=False
        )
        if result.returncode:
            raise ChaosError(f"ray drain-node failed: {(result.stdout + result.stderr).strip()}")


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _parent(pid: int) -> int:
    # Field 4 (ppid) of proc(5); the name before it is in parentheses and may contain spaces.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # A process may end meanwhile.
            if _parent(int(path.name)) == pid:
                found.append(int(path.name))
    return found
