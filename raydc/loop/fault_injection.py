"""Faults on purpose: a worker kills itself, or waits to be killed, at a chosen place of a run.

Runs in each worker. Only the run folders that `raydc chaos` breaks hold a `faults.json`; in every
other run there is no such file and nothing happens. A fault fires once: before it does anything, it
leaves `faults/<id>.json`, which proves that it fired.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raydc.storage import Storage, canonical_json

FILE, FIRED = "faults.json", "faults"
WORKER, DRIVER, RESIZE, NODE, DRAIN = KINDS = ("worker", "driver", "resize", "node", "drain")
STEP, RESTORED = "step", "restored"
# Longest wait for the external killer.
_WAIT_TIMEOUT_S = 180.0
_POLL_EVERY_S = 0.05


@dataclass(frozen=True)
class Fault:
    """One planned fault.

    Attributes:
        id: Unique in a run.
        kind: Who is killed: worker, driver, resize (the driver, and the next driver has another
            number of workers), node; or drain, which announces the end of a node.
        place: Place in the run: `step` (before it is computed), `restored`, or a phase of writing a
            checkpoint as `raydc.checkpoint.store` names them.
        step: For the place `step`, the step that is about to be computed, from 1. For the others,
            the least number of completed steps.
        rank: Worker that fires, modulo the number of workers.
        workers: For a resize, the number of workers of the next driver.
    """

    id: str
    kind: str
    place: str
    step: int
    rank: int = 0
    workers: int | None = None


def plan(run_folder: Storage, faults: Sequence[Fault]) -> None:
    """Writes the planned faults into the run folder."""
    run_folder.write_json(FILE, [asdict(fault) for fault in faults])


def fired(run_folder: Storage) -> dict[str, dict[str, Any]]:
    """Proofs of the faults that fired, by id: time, completed steps, rank and process id."""
    names = run_folder.names(FIRED)
    # A proof that is still being written has `.tmp` in its name.
    return {
        name.removesuffix(".json"): run_folder.read_json(f"{FIRED}/{name}")
        for name in names
        if ".tmp" not in name
    }


class FaultInjector:
    """Fires the planned faults of one worker.

    Args:
        run_folder: Folder of the run, which may hold `faults.json` and keeps the proofs.
        rank: Rank of this worker, which selects its faults.
        world_size: Number of workers; a fault of a higher rank wraps around to one of them.
        stop_request: Returns the reason of a requested stop; a fault that waits ends with it.

    Attributes:
        planned: Faults of this worker; empty except in runs that are broken on purpose.
    """

    def __init__(
        self,
        run_folder: Storage,
        rank: int,
        world_size: int,
        stop_request: Callable[[], str | None] = lambda: None,
    ) -> None:
        planned = run_folder.read_json(FILE) if run_folder.exists(FILE) else []
        faults = [Fault(**fault) for fault in planned]
        self.planned = [fault for fault in faults if fault.rank % world_size == rank]
        self._folder = run_folder
        self._rank = rank
        self._stop_request = stop_request
        self._step = 0

    def before_step(self, step: int) -> None:
        """Fires what is planned before a step, counted from 1."""
        if self.planned:
            self._step = step - 1
            self.reached(STEP)

    def restored(self, step: int) -> None:
        """Fires what is planned for a worker that has restored the state after `step` steps."""
        self._step = step
        self.reached(RESTORED)

    def reached(self, place: str) -> None:
        """Fires what is planned at a place."""
        for fault in self.planned:
            # Between two steps the exact number depends on the interval of checkpoints: from the
            # planned number on, the first occasion counts.
            due = self._step + 1 == fault.step if place == STEP else self._step >= fault.step
            if due and place.startswith(fault.place):
                self._fire(fault)

    def _fire(self, fault: Fault) -> None:
        proof = {"time_s": time.time(), "step": self._step, "rank": self._rank, "pid": os.getpid()}
        # Only one process can create the proof, and only once: a restart does not fire again.
        if not self._folder.create_bytes(f"{FIRED}/{fault.id}.json", canonical_json(proof)):
            return
        if fault.kind == WORKER:
            os.kill(os.getpid(), signal.SIGKILL)
        # All other kinds come from outside: a kill, or a request to stop.
        deadline_s = time.monotonic() + (0.0 if fault.kind == WORKER else _WAIT_TIMEOUT_S)
        while time.monotonic() < deadline_s and self._stop_request() is None:
            time.sleep(_POLL_EVERY_S)
