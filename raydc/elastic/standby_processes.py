"""Standby processes: on the nodes of a run, with everything imported, for its next workers.

Runs in the controller actor. Most of a restart is the start of processes and the import of torch.
Ray gives a new worker an idle process of the same job and runtime environment if the node has one.
`PrestartWorkers` makes a raylet start such processes. It is the remote call behind Ray's
`prestart_workers_on_local_node`, a function that Ray's releases leave out and that reaches the
local node only; so the call is made here. `fault_tolerance.spare_workers: false` switches all of it
off.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydc.elastic.group_size import Node
from raydc.engine import internals

_log = logging.getLogger("ray.train")
_REPLY_TIMEOUT_S = 2.0
# How long the end of a run waits for idle processes to become actors. One that still imports then
# stays until the driver ends.
_STOP_TIMEOUT_S = 0.5
# Ray ends idle processes beyond the CPUs of a node after a second, unless a keep-alive time was
# given.
_KEEP_ALIVE_S = 7 * 24 * 3600
# A process that imports takes a CPU for some seconds, so workers that have just started come first.
# The first delay is long, so that short runs start none; after a loss the next is likely soon.
_FIRST_DELAY_S, _DELAY_S = 15.0, 4.0


def _own_environment() -> str:
    """The runtime environment of this process, as a raylet compares it."""
    return str(ray.get_runtime_context().get_runtime_env_string())


class _Idle:
    def ready(self) -> None:
        return


def _request_processes(node: Node, num_processes: int, environment: str) -> None:
    """Makes the raylet of a node start processes. Raises grpc.RpcError."""
    request = internals.PrestartWorkersRequest(
        job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        num_workers=num_processes,
        keep_alive_duration_secs=_KEEP_ALIVE_S,
    )
    request.runtime_env_info.serialized_runtime_env = environment
    with internals.init_grpc_channel(node.address) as channel:
        stub = internals.NodeManagerServiceStub(channel)
        stub.PrestartWorkers(request, timeout=_REPLY_TIMEOUT_S)


class StandbyProcesses:
    """The standby processes of one run.

    Args:
        enabled: Whether there should be any.
        entry: module.function that Ray calls when a process for a worker starts.
        request: Starts processes on a node; raises grpc.RpcError.
        now_s: A monotonic clock.

    Attributes:
        runtime_env: Runtime environment of the workers, which names the entry.
    """

    def __init__(
        self,
        enabled: bool,
        entry: str,
        request: Callable[[Node, int, str], None] = _request_processes,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runtime_env = {"env_vars": {internals.WORKER_PROCESS_SETUP_HOOK_ENV_VAR: entry}}
        self._enabled = enabled
        self._request = request
        self._now_s = now_s
        # Requested processes by node id. Ray does not say which of them still live.
        self._standing_by: Counter[str] = Counter()
        # Runtime environment of the workers: first a reference, then the text. None until workers
        # have started.
        self._environment: Any = None
        self._allowed_from_s = 0.0

    def note_started(self, workers: list[Any]) -> None:
        """Notes that workers have started; each used up a standby process if its node had one."""
        if workers and self._enabled:
            self._standing_by -= Counter(worker.metadata.node_id for worker in workers)
            is_first = self._environment is None
            # Only a worker knows the exact text by which the raylet compares environments.
            self._environment = workers[0].execute_async(_own_environment)
            self._allowed_from_s = self._now_s() + (_FIRST_DELAY_S if is_first else _DELAY_S)

    def stop_all(self) -> None:
        """Ends the standby processes at the end of a run.

        Ray has no call to end an idle process, so each is made an actor, and the actor is killed.
        """
        # The environment as Ray Train makes it for its workers: else Ray starts new processes.
        variables = {**internals.get_env_vars_to_propagate(), **self.runtime_env["env_vars"]}
        idle = ray.remote(num_cpus=0, runtime_env={"env_vars": variables})(_Idle)
        actors = [
            idle.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
            ).remote()
            for node_id in self._standing_by.elements()
        ]
        self._standing_by.clear()
        if not actors:
            return
        ray.wait(
            [actor.ready.remote() for actor in actors],
            num_returns=len(actors),
            timeout=_STOP_TIMEOUT_S,
        )
        for actor in actors:
            ray.kill(actor)

    def ensure(self, counts: Mapping[str, int], nodes: Iterable[Node]) -> None:
        """Requests processes on nodes that have too few standby processes.

        Args:
            counts: Processes that should stand by, by node id.
            nodes: Nodes that respond.
        """
        if self._environment is None or self._now_s() < self._allowed_from_s:
            return
        for node in nodes:
            missing = counts.get(node.node_id, 0) - self._standing_by[node.node_id]
            if missing > 0 and self._start(node, missing):
                self._standing_by[node.node_id] += missing

    def _start(self, node: Node, num_processes: int) -> bool:
        """Requests processes on a node; False if it has to be tried again."""
        if not self._is_environment_known():
            return False
        try:
            self._request(node, num_processes, self._environment)
        except grpc.RpcError as error:
            _log.warning("raydc: no standby processes on %s: %s", node.address, error)
            return False
        return True

    def _is_environment_known(self) -> bool:
        if isinstance(self._environment, str):
            return True
        # Polled, because a worker that hangs must not hold up the controller.
        ready, _ = ray.wait([self._environment], timeout=0)
        if not ready:
            return False
        try:
            self._environment = ray.get(self._environment, timeout=_REPLY_TIMEOUT_S)
        except ray.exceptions.RayError:
            # The worker died; its successor will be queried.
            self._environment = None
            return False
        return True
