"""Where the workers of a run, its controller and its driver meet: a small Ray actor with no CPU of its own."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydc.elastic import peer_memory

_ANSWER_TIMEOUT_S = 30.0


class Mailbox:
    """The actor's state: what was published since the driver last asked."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._holders: dict[str, Any] = {}

    def publish(self, record: dict[str, Any]) -> None:
        """From rank 0, for whoever watches. Of progress only the newest is kept."""
        if (
            record["kind"] == "progress"
            and self._records
            and self._records[-1]["kind"] == "progress"
        ):
            self._records.pop()
        self._records.append(record)

    def record(self, record: dict[str, Any]) -> None:
        """From the controller, which writes no files: the driver writes it to events.jsonl."""
        self._records.append({**record, "unwritten": True})

    def collect(self) -> list[dict[str, Any]]:
        """What was published since the last call."""
        records, self._records = self._records, []
        return records

    def holder(self, node_id: str) -> Any:
        """The holder of recent states on a node, started where there is none."""
        if node_id not in self._holders:
            self._holders[node_id] = peer_memory.start_holder(node_id)
        return self._holders[node_id]

    def holders(self) -> dict[str, Any]:
        """All holders, by node."""
        return dict(self._holders)

    def drop_holder(self, node_id: str) -> None:
        """A holder that does not answer; what it has no longer counts."""
        self._holders.pop(node_id, None)


def create() -> Any:
    """Starts a board on the driver's node, and gives its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


def get_reply(reference: Any) -> Any:
    """The answer of a board. Raises ray.exceptions.GetTimeoutError."""
    return ray.get(reference, timeout=_ANSWER_TIMEOUT_S)
