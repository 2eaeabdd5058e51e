"""What connects the loop of a worker with the process around it. Runs in each worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydc.checkpoint.peer_checkpoints import NUM_COPIES, PeerCheckpoints
from raydc.data import cold_rows
from raydc.loop.fault_injection import FaultInjector
from raydc.loop.planned_stop import StopRequest
from raydc.tracking.journal import Publish
from raydc.tracking.lease import Claim

# Takes the record of an epoch.
OnEpoch = Callable[[dict[str, Any]], None]


def _no_stop() -> None:
    """No stop is ever requested."""


@dataclass(frozen=True)
class Hooks:
    """Connections of a run with the process around it. Each of them is optional.

    Attributes:
        on_epoch: Called by each rank at the end of each epoch but the last one, once its state is
            copied. What it raises ends the run, so all ranks must raise the same.
        publish: Called by rank 0 with events and progress.
        post_event: Called by other ranks with the kind and fields of an event, which they do not
            write themselves.
        claim: Claim of the driver on the run, without which nothing is written. Default: whoever
            drives the run when the worker starts is its driver.
        next_attempt: Returns a number that grows with each attempt of the driver; called by rank 0.
        peer_memory: Memory that outlives the workers, for recent states.
        stop_request: Returns the reason of a planned stop that was requested in rank 0.
        available_bytes: Returns the memory that this process may fill, for passes whose size the
            run finds.
        faults: Breaks the run on purpose. Default: what the run folder plans, which is nothing
            except in runs of `raydc chaos`.
    """

    on_epoch: OnEpoch | None = None
    publish: Publish | None = None
    post_event: Callable[..., None] | None = None
    claim: Claim | None = None
    next_attempt: Callable[[], int] | None = None
    peer_memory: PeerCheckpoints | None = None
    stop_request: StopRequest = _no_stop
    available_bytes: Callable[[], int] = cold_rows.available_bytes
    faults: FaultInjector | None = None

    @property
    def num_copies(self) -> int:
        """Copies of the state in the memory of this machine, that of a checkpoint included."""
        return 1 if self.peer_memory is None else 1 + NUM_COPIES
