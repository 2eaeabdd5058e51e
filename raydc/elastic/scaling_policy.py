"""The scaling decisions of a run: how many workers, on which nodes, and when that changes.

Runs in the controller actor, inside Ray Train's controller, which starts, watches and ends the
workers. Ray's own elastic policy counts what nodes have instead of what is free on them, relies on
a list of nodes that is up to half a minute old, and kills a group in the middle of a step to change
it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from raydc.elastic import group_size, node_probe
from raydc.elastic.failure_policy import NodeLostError
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.engine import internals
from raydc.errors import ClusterError
from raydc.loop import planned_stop

_log = logging.getLogger("ray.train")

POLL_EVERY_S = 0.2
_PROBE_EVERY_S = 1.0
# A raylet that fails this many probes in a row is lost. Ray itself takes ten seconds and more to
# say so; a single failure may be a busy node.
_MAX_FAILED_PROBES = 2
_SETTLE_S = 3.0
_RETRY_AFTER_S = 60.0
# How long a checkpoint may take before a draining node leaves.
_DRAIN_MARGIN_S = 10.0


class ElasticScaling(internals.ElasticScalingPolicy):  # type: ignore[misc]
    """Decides how many workers a run has, and on which nodes.

    Args:
        scaling_config: `ScalingConfig` that Ray Train has made for the trainer.
        needs: Resources of one worker.
        start_timeout_s: How long workers may wait for free resources.
        mailbox: Handle of the run's mailbox, which takes events.
        standby: Keeps started processes on nodes with room, so that a restart is quick.
        autoscales: Whether the cluster may grow by what is requested.
        probe: Probes nodes, like `node_probe.probe_nodes`.
        now_s: A monotonic clock.
        unix_s: The Unix time, to compare with deadlines of nodes.
    """

    def __init__(
        self,
        scaling_config: Any,
        needs: dict[str, float],
        start_timeout_s: float,
        mailbox: Any,
        standby: StandbyProcesses,
        autoscales: bool,
        probe: Callable[[Collection[str] | None], list[group_size.Node]] = node_probe.probe_nodes,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(scaling_config)
        self._standby = standby
        self._autoscales = autoscales
        self._needs = needs
        self._probe_nodes, self._now_s, self._unix_s = probe, now_s, unix_s
        least, most = scaling_config.min_workers, scaling_config.max_workers
        self._size = group_size.GroupSize(least, most, _SETTLE_S, _RETRY_AFTER_S)
        self._start_timeout_s = start_timeout_s
        self._mailbox = mailbox
        # Workers of the running group; of a failed one until it is shut down.
        self._group: list[Any] = []
        # Nodes that the next group may use.
        self._usable: list[str] = []
        self._waiting_since_s: float | None = None
        self._probed_s = 0.0
        self._failed_probes: Counter[str] = Counter()
        # Events are posted once, not at every probe.
        self._announced: str | None = None
        self._lost: set[str] = set()

    @property
    def _held(self) -> Counter[str]:
        """Workers of the group by node id."""
        return Counter(worker.metadata.node_id for worker in self._group)

    def set_group(self, workers: list[Any]) -> None:
        """Notes which workers run now; none after a shutdown."""
        self._group = list(workers)
        self._standby.note_started(workers)
        self._failed_probes.clear()
        self._announced = None
        # A new group is first probed after a whole interval.
        self._probed_s = self._now_s()

    def after_controller_start(self, train_run_context: Any) -> None:
        """Connects to the autoscaler, if there is one."""
        if self._autoscales:
            super().after_controller_start(train_run_context)

    async def before_controller_shutdown(self) -> None:
        """Ends the standby processes, after the workers have ended."""
        await super().before_controller_shutdown()
        self._standby.stop_all()

    def _request_autoscaling(self) -> None:
        if self._autoscales:
            self._maybe_send_resource_request()

    def avoid_size(self, num_workers: int) -> None:
        """Notes that a group could not be started although there seemed to be room for it."""
        self._size.avoid(num_workers, self._now_s())

    def on_controller_start_worker_group(
        self,
        *,
        scaling_config: Any,  # noqa: ARG002
        num_workers: int,  # noqa: ARG002
    ) -> dict[str, str] | None:
        """Keeps workers off nodes that are dead or drain, which Ray may not know yet.

        Args:
            scaling_config: Not used; Ray passes it.
            num_workers: Not used; Ray passes it.

        Returns:
            A label selector for the workers, or None for all nodes.
        """
        return (
            {internals.RAY_NODE_ID_KEY: f"in({','.join(self._usable)})"} if self._usable else None
        )

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Starts as many workers as there is room for, or waits.

        Raises:
            ClusterError: There was no room for the fewest workers within `start_timeout_s`.
        """
        self._request_autoscaling()
        now_s = self._now_s()
        nodes = self._probe()
        # No nodes at all means that the head does not respond, not that every node is lost.
        if nodes and (silent := self._silent_nodes(nodes)):
            self._post_lost(silent)
        room = group_size.room_by_node(nodes, self._needs, self._held)
        num_workers = self._size.choose_start(sum(room.values()), now_s)
        if num_workers is None:
            self._wait(sum(room.values()), now_s)
            return internals.NoopDecision()
        self._waiting_since_s = None
        self._usable = sorted(room)
        return internals.ResizeDecision(num_workers=num_workers, resources_per_worker=self._needs)

    def _wait(self, fits: int, now_s: float) -> None:
        least, needs = self._size.least, self._needs
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
            self._post("waits_for_resources", least=least, fits=fits, needs=needs)
        elif now_s - self._waiting_since_s > self._start_timeout_s:
            raise ClusterError(
                f"after {self._start_timeout_s:g} s there is still room for {fits} of at least "
                f"{least} worker(s) of {needs} each",
                "Wait for other jobs, request fewer or smaller workers, raise "
                "scaling.start_timeout_s, or give --address of a larger cluster.",
            )

    def _probe(self, only: Collection[str] | None = None) -> list[group_size.Node]:
        """Probes nodes; none while Ray's head does not respond.

        Workers that run do not need the head; a group that is to start has to wait for it.
        """
        try:
            return self._probe_nodes(only)
        except Exception as error:  # noqa: BLE001 - Ray passes on any error of its client.
            _log.warning("raydc: Ray's head does not respond: %s", error)
            return []

    def make_decision_for_running_worker_group(
        self,
        worker_group_state: Any,  # noqa: ARG002
        worker_group_status: Any,  # noqa: ARG002
    ) -> Any:
        """Never resizes a running group; requests a planned stop if it should change.

        Args:
            worker_group_state: Not used; Ray passes it.
            worker_group_status: Not used; Ray passes it.

        Raises:
            WorkerGroupError: A node of the group is lost.
        """
        self._request_autoscaling()
        now_s = self._now_s()
        if now_s - self._probed_s >= _PROBE_EVERY_S:
            self._probed_s = now_s
            # A run of full size cannot grow, so only its own nodes matter: fewer probes.
            nodes = self._probe(None if len(self._group) < self._size.most else self._held)
            if not nodes:
                return internals.NoopDecision()
            self._check_nodes(nodes)
            self._ensure_standby(nodes)
            if reason := self._reason_to_stop(nodes, now_s):
                # A request to rank 0 is enough. It is repeated at every probe, because a call may
                # be lost.
                self._group[0].execute_async(planned_stop.request_stop, reason)
        return internals.NoopDecision()

    def _check_nodes(self, nodes: list[group_size.Node]) -> None:
        """Raises WorkerGroupError if a node of the group is lost."""
        # Nodes that respond drop out of the counter: failures count only in a row.
        self._failed_probes = Counter(
            {node_id: self._failed_probes[node_id] + 1 for node_id in self._silent_nodes(nodes)}
        )
        lost = {
            node_id for node_id, count in self._failed_probes.items() if count >= _MAX_FAILED_PROBES
        }
        if not lost:
            return
        self._post_lost(lost)
        failures = {
            rank: NodeLostError(
                f"node {worker.metadata.node_id[:8]} ({worker.metadata.node_ip}) does not respond"
            )
            for rank, worker in enumerate(self._group)
            if worker.metadata.node_id in lost
        }
        raise internals.WorkerGroupError("; ".join(map(str, failures.values())), failures)

    def _silent_nodes(self, nodes: list[group_size.Node]) -> set[str]:
        """Ids of the group's nodes that do not respond, or that Ray knows to be dead."""
        return set(self._held) - {node.node_id for node in nodes if node.responds}

    def _post_lost(self, node_ids: set[str]) -> None:
        if new := node_ids - self._lost:
            self._lost |= new
            for node_id in new:
                # Otherwise a restart would wait for states in the memory of a dead node.
                self._mailbox.drop_holder.remote(node_id)
            self._post("node_lost", nodes=sorted(new))

    def _ensure_standby(self, nodes: list[group_size.Node]) -> None:
        """Keeps a process ready for each worker, and for those that the run may soon grow by."""
        held, num_more = self._held, self._size.most - len(self._group)
        counts: Counter[str] = Counter()
        for node_id, count in group_size.room_by_node(nodes, self._needs, held).items():
            num_extra = min(num_more, max(0, count - held[node_id]))
            counts[node_id] = held[node_id] + num_extra
            num_more -= num_extra
        self._standby.ensure(counts, [node for node in nodes if node.is_usable])

    def _reason_to_stop(self, nodes: list[group_size.Node], now_s: float) -> str | None:
        """Why the group should stop now: one of `planned_stop.REASONS`, or None."""
        num_workers, held = len(self._group), self._held
        # Room on draining nodes does not count, so this is also the room elsewhere.
        fits = sum(group_size.room_by_node(nodes, self._needs, held).values())
        draining = {node.node_id: node.drains_at_s for node in nodes if node.node_id in held}
        draining = {node_id: at_s for node_id, at_s in draining.items() if at_s is not None}
        if draining:
            # 0 means a drain without a known deadline.
            deadline_s = min((at_s for at_s in draining.values() if at_s), default=None)
            self._announce(
                planned_stop.DRAIN, "drain_noticed", nodes=sorted(draining), deadline_s=deadline_s
            )
            leaves = group_size.should_leave(
                fits, self._size.least, deadline_s, self._unix_s(), _DRAIN_MARGIN_S
            )
            return planned_stop.DRAIN if leaves else None
        target = self._size.choose_growth(num_workers, fits, now_s)
        if target is None:
            return None
        self._announce(planned_stop.GROW, "resize_planned", world_size=num_workers, to=target)
        return planned_stop.GROW

    def request_stop(self, reason: str) -> bool:
        """Asks the workers to stop between two steps; returns False if there are none."""
        if not self._group:
            return False
        self._group[0].execute_async(planned_stop.request_stop, reason)
        return True

    def _announce(self, reason: str, kind: str, **fields: Any) -> None:
        if self._announced != reason:
            self._announced = reason
            self._post(kind, **fields)

    def _post(self, kind: str, **fields: Any) -> None:
        _log.info("raydc: %s %s", kind, fields)
        record = {"kind": kind, "time_s": round(self._unix_s(), 3), **fields}
        self._mailbox.post_event.remote(record)
