"""Faults on purpose: a worker kills itself, or waits to be killed, at a chosen place of a run.

A run folder that holds `faults.json` is one that `raydc chaos` breaks; every other run finds no file and does nothing.
A fault fires once: it leaves `faults/<id>.json` first, which proves it.
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
# Who is asked to end this process from outside has to be quicker than this.
_WAIT_TIMEOUT_S = 180.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        id: Unique in a run.
        kind: Who is killed: worker, driver, resize (the driver, and the next has another number of workers), node; or
            drain, where a node is told to end.
        place: Where in the run: `step` (before it is done), `restored`, or a phase of writing a checkpoint as
            `raydc.checkpoint.store` names them.
        step: Of a step, the one that is due, from 1. Elsewhere, the least steps that are done.
        rank: Which worker; counted modulo the number of workers.
        workers: How many the next driver has, for a resize.
    """

    id: str
    kind: str
    place: str
    step: int
    rank: int = 0
    workers: int | None = None


def plan(run_folder: Storage, faults: Sequence[Fault]) -> None:
    """Writes what is to go wrong in a run."""
    run_folder.write_json(FILE, [asdict(fault) for fault in faults])


def fired(run_folder: Storage) -> dict[str, dict[str, Any]]:
    """When, after how many steps and where each fault has happened, by id."""
    names = run_folder.names(FIRED)
    return {
        name.removesuffix(".json"): run_folder.read_json(f"{FIRED}/{name}")
        for name in names
        if ".tmp" not in name
    }


class FaultInjector:
    """What is to go wrong in this worker: `planned`, which is empty but for runs that are broken on purpose.

    Args:
        run_folder: Of the run.
        rank: Of this worker.
        world_size: Workers.
        pending: Why the workers should end, once rank 0 was asked to.
    """

    def __init__(
        self,
        run_folder: Storage,
        rank: int,
        world_size: int,
        pending: Callable[[], str | None] = lambda: None,
    ) -> None:
        planned = run_folder.read_json(FILE) if run_folder.exists(FILE) else []
        faults = [Fault(**fault) for fault in planned]
        self.planned = [fault for fault in faults if fault.rank % world_size == rank]
        self._folder = run_folder
        self._rank = rank
        self._pending = pending
        self._step = 0

    def before_step(self, step: int) -> None:
        """A step is due, counted from 1."""
        if self.planned:
            self._step = step - 1
            self.reached(STEP)

    def restored(self, step: int) -> None:
        """The worker goes on after `step` steps."""
        self._step = step
        self.reached(RESTORED)

    def reached(self, place: str) -> None:
        """The worker is at a place: whatever is to happen there happens."""
        for fault in self.planned:
            due = self._step + 1 == fault.step if place == STEP else self._step >= fault.step
            if due and place.startswith(fault.place):
                self._fire(fault)

    def _fire(self, fault: Fault) -> None:
        proof = {"time_s": time.time(), "step": self._step, "rank": self._rank, "pid": os.getpid()}
        if not self._folder.create_bytes(f"{FIRED}/{fault.id}.json", canonical_json(proof)):
            return
        if fault.kind == WORKER:
            os.kill(os.getpid(), signal.SIGKILL)
        # What comes now comes from outside: a kill, or the wish that the workers end.
        deadline_s = time.monotonic() + (0.0 if fault.kind == WORKER else _WAIT_TIMEOUT_S)
        while time.monotonic() < deadline_s and self._pending() is None:
            time.sleep(_LOOK_EVERY_S)
