"""The mailbox of a run: a small Ray actor between its workers, its controller and its driver.

It runs on the driver's node and reserves no CPU.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydc.elastic import peer_memory
from raydc.elastic.crews import LEAVE, Crews

_REPLY_TIMEOUT_S = 30.0


class Mailbox:
    """State of the actor: records that the driver has not collected yet, and memory holders."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._holders: dict[str, Any] = {}
        self._attempt = 0
        self._stop_reason: str | None = None
        self._training: set[str] = set()
        self._crews = Crews()

    def publish(self, record: dict[str, Any]) -> None:
        """Takes a record of rank 0; of consecutive progress records only the newest is kept."""
        # Otherwise a driver that hangs for an hour would find thousands of them.
        if (
            record["kind"] == "progress"
            and self._records
            and self._records[-1]["kind"] == "progress"
        ):
            self._records.pop()
        self._records.append(record)

    def post_event(self, record: dict[str, Any]) -> None:
        """Takes an event of the controller, or of a rank that writes no files: the driver does."""
        self._records.append({**record, "unwritten": True})

    def next_attempt(self) -> int:
        """A number for an attempt that starts, larger than those of all attempts before it."""
        # The clock of the driver's node, so that it grows even if this actor is made again.
        self._attempt = max(self._attempt + 1, time.time_ns())
        return self._attempt

    def request_stop(self, reason: str) -> None:
        """Asks all trials of a sweep to stop; see `planned_stop`."""
        self._stop_reason = reason

    def stop_reason(self, trial: str) -> str | None:
        """Why a trial should stop, or None: all of them should, or its workers change."""
        return self._stop_reason or self._crews.wish(trial)

    def enter(self, trial: str) -> None:
        """Notes that a trial trains, and has a state to keep."""
        self._training.add(trial)
        self._crews.begin(trial)

    def leave(self, trial: str) -> None:
        """Notes that a trial has ended, or has kept its state."""
        self._training.discard(trial)
        self._crews.end(trial)

    def of_crews(self, name: str, *arguments: Any) -> Any:
        """Calls a method of `Crews`: who joins which trial.

        Args:
            name: Name of the method.
            *arguments: Its arguments.
        """
        return getattr(self._crews, name)(*arguments)

    def take_task(self, helper: str) -> Any:
        """What a helper does next, as `Crews.take_task`; it leaves when all trials stop."""
        return LEAVE if self._stop_reason else self._crews.take_task(helper)

    def num_training(self) -> int:
        """How many trials have a state that is not kept yet."""
        return len(self._training)

    def collect(self) -> list[dict[str, Any]]:
        """Returns the records since the last call."""
        records, self._records = self._records, []
        return records

    def get_holder(self, node_id: str) -> Any:
        """The memory holder on a node; it is started if there is none."""
        # Started here, not by the worker, because an actor dies with the process that started it.
        if node_id not in self._holders:
            self._holders[node_id] = peer_memory.start_holder(node_id)
        return self._holders[node_id]

    def get_holders(self) -> dict[str, Any]:
        """All memory holders, by node id."""
        return dict(self._holders)

    def drop_holder(self, node_id: str) -> None:
        """Forgets a holder that does not respond, with its states."""
        self._holders.pop(node_id, None)


def create() -> Any:
    """Starts a mailbox on the node of the calling driver and returns its handle."""
    # Hard: on a worker's node it would die with that node, and the run would be silent.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Made again if it dies; what was not collected yet is lost, the handles stay valid.
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return ray.remote(Mailbox).options(**options).remote()


def get_reply(reference: Any) -> Any:
    """Waits for the reply of a mailbox. Raises ray.exceptions.GetTimeoutError."""
    return ray.get(reference, timeout=_REPLY_TIMEOUT_S)
