"""The decisions of Ray Train's controller that raydc takes: how many workers, where, and when they are others.

Ray starts, watches and ends the workers. Its own elastic policy counts what nodes have, not what is free on them, and
what it knows of them is up to half a minute old; a group that it changes is killed in the middle of a step.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

from raydc.elastic import capacity, node_probe
from raydc.elastic.failure_policy import NodeLostError
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.engine import internals
from raydc.errors import ClusterError
from raydc.loop import planned_stop

_log = logging.getLogger("ray.train")

POLL_EVERY_S = 0.2
_LOOK_WHILE_RUNNING_S = 1.0
# A raylet that refuses or stays silent so often in a row is gone; Ray itself takes ten seconds and more to say so.
_STRIKES = 2
_SETTLE_S = 3.0
_RETRY_AFTER_S = 60.0
# What a checkpoint may take before a node goes.
_DRAIN_MARGIN_S = 10.0


class ElasticScaling(internals.ElasticScalingPolicy):  # type: ignore[misc]
    """How many workers a run has, and on which nodes.

    Args:
        scaling_config: Ray Train's.
        needs: Resources of one worker.
        start_timeout_s: How long workers may wait for free resources.
        board: Takes events.
        spares: Processes that stand by.
        autoscales: Whether the cluster may grow by what is asked for.
    """

    def __init__(
        self,
        scaling_config: Any,
        needs: dict[str, float],
        start_timeout_s: float,
        board: Any,
        spares: StandbyProcesses,
        autoscales: bool,
    ) -> None:
        super().__init__(scaling_config)
        self._spares = spares
        self._autoscales = autoscales
        self._needs = needs
        least, most = scaling_config.min_workers, scaling_config.max_workers
        self._size = capacity.Size(least, most, _SETTLE_S, _RETRY_AFTER_S)
        self._start_timeout_s = start_timeout_s
        self._board = board
        self._group: list[Any] = []
        self._usable: list[str] = []
        self._waits_since_s: float | None = None
        self._looked_s = 0.0
        self._strikes: Counter[str] = Counter()
        self._announced: str | None = None
        self._lost: set[str] = set()

    @property
    def _held(self) -> Counter[str]:
        return Counter(worker.metadata.node_id for worker in self._group)

    # Told by the controller -------------------------------------------------------------------------

    def group_is(self, workers: list[Any]) -> None:
        """These workers run now; none when a group was shut down."""
        self._group = list(workers)
        self._spares.started(workers)
        self._strikes.clear()
        self._announced = None
        self._looked_s = time.monotonic()

    def after_controller_start(self, train_run_context: Any) -> None:
        """Tells the autoscaler what the run needs; a Ray of one process's own has none."""
        if self._autoscales:
            super().after_controller_start(train_run_context)

    async def before_controller_shutdown(self) -> None:
        """The end of the run, after that of its workers."""
        await super().before_controller_shutdown()
        self._spares.dismiss()

    def _ask_autoscaler(self) -> None:
        if self._autoscales:
            self._maybe_send_resource_request()

    def no_room_for(self, num_workers: int) -> None:
        """There seemed to be room for so many, but there was not."""
        self._size.not_started(num_workers, time.monotonic())

    def on_controller_start_worker_group(
        self, *, scaling_config: Any, num_workers: int
    ) -> dict[str, str] | None:
        """Keeps the workers off nodes that are dead, or about to be, but that Ray does not know of yet."""
        return (
            {internals.RAY_NODE_ID_KEY: f"in({','.join(self._usable)})"} if self._usable else None
        )

    # No group runs ----------------------------------------------------------------------------------

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Starts as many workers as there is room for, or none yet."""
        self._ask_autoscaler()
        now_s = time.monotonic()
        nodes = self._look()
        if nodes and (silent := self._silent(nodes)):
            self._tell_lost(silent)
        room = capacity.room(nodes, self._needs, self._held)
        num_workers = self._size.to_start(sum(room.values()), now_s)
        if num_workers is None:
            self._wait(sum(room.values()), now_s)
            return internals.NoopDecision()
        self._waits_since_s = None
        self._usable = sorted(room)
        return self._resize(num_workers)

    def _wait(self, fits: int, now_s: float) -> None:
        least, needs = self._size.least, self._needs
        if self._waits_since_s is None:
            self._waits_since_s = now_s
            self._tell("waits_for_resources", least=least, fits=fits, needs=needs)
        elif now_s - self._waits_since_s > self._start_timeout_s:
            raise ClusterError(
                f"after {self._start_timeout_s:g} s there is still room for {fits} of at least {least} worker(s) of "
                f"{needs} each",
                "Wait for other jobs, ask for fewer or smaller workers, raise scaling.start_timeout_s, or give "
                "--address of a larger cluster.",
            )

    def _resize(self, num_workers: int) -> Any:
        return internals.ResizeDecision(num_workers=num_workers, resources_per_worker=self._needs)

    def _look(self, only: Collection[str] | None = None) -> list[capacity.Node]:
        """Nothing while Ray's head is away: running workers do not need it, and others have to wait for it."""
        try:
            return node_probe.probe_nodes(only)
        except Exception as error:  # noqa: BLE001 - Ray raises whatever its client of the head does.
            _log.warning("raydc: the head does not answer: %s", error)
            return []

    # A group runs -----------------------------------------------------------------------------------

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> Any:
        """Never changes a running group: asks it to end where it should, and says so where a node of it is gone."""
        self._ask_autoscaler()
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_WHILE_RUNNING_S:
            self._looked_s = now_s
            # A run that cannot grow needs to know of its own nodes only.
            nodes = self._look(None if len(self._group) < self._size.most else self._held)
            if not nodes:
                return internals.NoopDecision()
            self._check_nodes(nodes)
            self._stand_by(nodes)
            if reason := self._reason_to_leave(nodes, now_s):
                # Rank 0 speaks for all. Repeated until they leave: a call may be lost.
                self._group[0].execute_async(planned_stop.request_stop, reason)
        return internals.NoopDecision()

    def _check_nodes(self, nodes: list[capacity.Node]) -> None:
        """Raises WorkerGroupError where a node of the group is gone."""
        self._strikes = Counter(
            {node_id: self._strikes[node_id] + 1 for node_id in self._silent(nodes)}
        )
        lost = {node_id for node_id, count in self._strikes.items() if count >= _STRIKES}
        if not lost:
            return
        self._tell_lost(lost)
        failures = {
            rank: NodeLostError(
                f"node {worker.metadata.node_id[:8]} ({worker.metadata.node_ip}) does not answer"
            )
            for rank, worker in enumerate(self._group)
            if worker.metadata.node_id in lost
        }
        raise internals.WorkerGroupError("; ".join(map(str, failures.values())), failures)

    def _silent(self, nodes: list[capacity.Node]) -> set[str]:
        """Nodes of the group that do not answer."""
        return set(self._held) - {node.node_id for node in nodes if node.answers}

    def _tell_lost(self, node_ids: set[str]) -> None:
        if new := node_ids - self._lost:
            self._lost |= new
            for node_id in new:
                self._board.drop_holder.remote(node_id)
            self._tell("node_lost", nodes=sorted(new))

    def _stand_by(self, nodes: list[capacity.Node]) -> None:
        """Has a process ready for each worker, and for those that the run may soon grow by."""
        held, more = self._held, self._size.most - len(self._group)
        counts: Counter[str] = Counter()
        for node_id, count in capacity.room(nodes, self._needs, held).items():
            extra = min(more, max(0, count - held[node_id]))
            counts[node_id] = held[node_id] + extra
            more -= extra
        self._spares.ask_for(counts, [node for node in nodes if node.usable])

    def _reason_to_leave(self, nodes: list[capacity.Node], now_s: float) -> str | None:
        num_workers, held = len(self._group), self._held
        fits = sum(capacity.room(nodes, self._needs, held).values())
        draining = {node.node_id: node.drains_at_s for node in nodes if node.node_id in held}
        draining = {node_id: at_s for node_id, at_s in draining.items() if at_s is not None}
        if draining:
            deadline_s = min((at_s for at_s in draining.values() if at_s), default=None)
            self._announce(
                planned_stop.DRAIN, "drain_noticed", nodes=sorted(draining), deadline_s=deadline_s
            )
            leaves = capacity.leaves_now(
                fits, self._size.least, deadline_s, time.time(), _DRAIN_MARGIN_S
            )
            return planned_stop.DRAIN if leaves else None
        target = self._size.grows_to(num_workers, fits, now_s)
        if target is None:
            return None
        self._announce(planned_stop.GROW, "resize_planned", world_size=num_workers, to=target)
        return planned_stop.GROW

    def _announce(self, reason: str, kind: str, **fields: Any) -> None:
        if self._announced != reason:
            self._announced = reason
            self._tell(kind, **fields)

    def _tell(self, kind: str, **fields: Any) -> None:
        _log.info("raydc: %s %s", kind, fields)
        self._board.record.remote({"kind": kind, "time_s": round(time.time(), 3), **fields})
