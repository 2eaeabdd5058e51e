"""Processes that stand by on the nodes of a run, with everything imported, for the workers after these.

Most of a restart is the start of processes and the import of torch. Ray gives a new worker a process that stands by,
where it has one of the same job and environment; it is asked here for some.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydc.elastic.capacity import Node
from raydc.engine import internals

_log = logging.getLogger("ray.train")
_ANSWER_TIMEOUT_S = 2.0
# One that still imports when the run ends stays until the driver ends.
_END_TIMEOUT_S = 0.5
# Ray ends idle processes beyond the CPUs of a node after a second, unless they were asked for by a time.
_STAY_S = 7 * 24 * 3600
# The workers that have just started come first: a process that imports takes a CPU for some seconds. A short run that
# nothing disturbs never pays for that; one that has lost its workers once has them stand by sooner.
_FIRST_AFTER_S, _AFTER_S = 15.0, 4.0


def _own_environment() -> str:
    """Of this process, as Ray compares it."""
    return str(ray.get_runtime_context().get_runtime_env_string())


class _Idle:
    def ready(self) -> None:
        return


class StandbyProcesses:
    """The processes that stand by for one run.

    Args:
        wanted: Whether there should be any.
        entry: module.function that workers call when their process starts.

    Attributes:
        settings: The runtime environment that says so.
    """

    def __init__(self, wanted: bool, entry: str) -> None:
        self.settings = {"env_vars": {internals.WORKER_PROCESS_SETUP_HOOK_ENV_VAR: entry}}
        self._wanted = wanted
        self._standing_by: Counter[str] = Counter()
        self._environment: Any = None
        self._from_s = 0.0

    def started(self, workers: list[Any]) -> None:
        """These workers have started, out of the processes that stood by where there were any."""
        if workers and self._wanted:
            self._standing_by -= Counter(worker.metadata.node_id for worker in workers)
            is_first = self._environment is None
            self._environment = workers[0].execute_async(_own_environment)
            self._from_s = time.monotonic() + (_FIRST_AFTER_S if is_first else _AFTER_S)

    def dismiss(self) -> None:
        """Ends those that stand by: each becomes an actor, which is ended."""
        # As Ray Train makes the environment of its workers.
        variables = {**internals.get_env_vars_to_propagate(), **self.settings["env_vars"]}
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
            timeout=_END_TIMEOUT_S,
        )
        for actor in actors:
            ray.kill(actor)

    def ask_for(self, counts: Mapping[str, int], nodes: Iterable[Node]) -> None:
        """Asks for processes where fewer stand by than they should.

        Args:
            counts: How many should, by node id.
            nodes: Those that answer.
        """
        if self._environment is None or time.monotonic() < self._from_s:
            return
        for node in nodes:
            missing = counts.get(node.node_id, 0) - self._standing_by[node.node_id]
            if missing > 0 and self._start(node, missing):
                self._standing_by[node.node_id] += missing

    def _start(self, node: Node, num_processes: int) -> bool:
        if not isinstance(self._environment, str):
            ready, _ = ray.wait([self._environment], timeout=0)
            if not ready:
                return False
            try:
                self._environment = ray.get(self._environment, timeout=_ANSWER_TIMEOUT_S)
            except ray.exceptions.RayError:
                self._environment = None
                return False
        request = internals.PrestartWorkersRequest(
            job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
            num_workers=num_processes,
            keep_alive_duration_secs=_STAY_S,
        )
        request.runtime_env_info.serialized_runtime_env = self._environment
        try:
            with internals.init_grpc_channel(node.address) as channel:
                stub = internals.NodeManagerServiceStub(channel)
                stub.PrestartWorkers(request, timeout=_ANSWER_TIMEOUT_S)
        except grpc.RpcError as error:
            _log.warning("raydc: no processes stand by on %s: %s", node.address, error)
            return False
        return True
