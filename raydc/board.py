"""Where the workers of a run and its driver meet: a small Ray actor with no CPU of its own.

Workers leave progress, events and deliberate errors; the driver collects them. A deliberate error ends the run at
once: Ray Train would otherwise try the same again until `max_failures` is used up.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydc import recent
from raydc.errors import RaydcError, TrainError
from raydc.group import PeerLostError

_ANSWER_TIMEOUT_S = 30.0
_SAME_FAILURES = 2


class Board:
    """The actor's state: what was published since the driver last asked, and how the run has failed."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._verdict: RaydcError | None = None
        self._failures: dict[str, int] = {}
        self._holders: dict[str, Any] = {}

    def publish(self, record: dict[str, Any]) -> None:
        """From rank 0. Of progress only the newest is kept."""
        if record["kind"] == "progress" and self._records and self._records[-1]["kind"] == "progress":
            self._records.pop()
        self._records.append(record)

    def collect(self) -> list[dict[str, Any]]:
        """What was published since the last call."""
        records, self._records = self._records, []
        return records

    def refuse(self, error: RaydcError) -> None:
        """A deliberate error of a worker: the run is over. The first one counts."""
        self._verdict = self._verdict or error

    def fail(self, error: TrainError) -> None:
        """An unexpected error of a worker. The same one again, at the same step, would come for ever."""
        self._failures[error.message] = self._failures.get(error.message, 0) + 1
        if self._failures[error.message] >= _SAME_FAILURES:
            self._verdict = self._verdict or error

    def verdict(self) -> RaydcError | None:
        """Why the run is over, if it is."""
        return self._verdict

    def holder(self, node_id: str) -> Any:
        """The holder of recent states on a node, started where there is none."""
        if node_id not in self._holders:
            self._holders[node_id] = recent.start_holder(node_id)
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
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


def ask(reference: Any) -> Any:
    """The answer of a board. Raises ray.exceptions.GetTimeoutError."""
    return ray.get(reference, timeout=_ANSWER_TIMEOUT_S)


def guard(handle: Any, rank: int, work: Callable[[], Any]) -> None:
    """Runs a worker's part, and tells the board how it failed.

    A deliberate error ends the run: alone, this returns normally, so that Ray Train does not try again; with peers
    it goes on, so that they do not wait, and the next attempt stops at once. Other errors go on to Ray Train.
    """
    if ask(handle.verdict.remote()) is not None:
        return
    try:
        work()
    except PeerLostError:
        raise  # The peer, or whoever lost it, has more to tell.
    except RaydcError as error:
        ask(handle.refuse.remote(error))
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise  # The others may wait for this one: Ray ends them now, and a next attempt stops at the verdict.
    except Exception as error:
        ask(handle.fail.remote(describe(error, rank)))
        raise


def describe(error: Exception, rank: int) -> TrainError:
    """An unexpected error of a worker, on one page: who, where in the code, and what."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-3:]]
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return TrainError(
        f"rank {rank} on {socket.gethostname()} failed{notes}: {type(error).__name__}: {error}\n    at "
        + "\n    at ".join(reversed(places)),
        "Train with --set scaling.num_workers=0 to see it in this process.",
    )
