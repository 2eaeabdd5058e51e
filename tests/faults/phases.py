"""Trains once undisturbed, then once per checkpoint phase, killed there and resumed. Prints JSON.

    python phases.py DATA WORK

The undisturbed run is of this process, the others are forks of it: everything is imported once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from training import StopsAfter, training_spec

from raydc.loop import worker
from raydc.loop.fault_injection import FaultInjector
from raydc.loop.hooks import Hooks
from raydc.storage import Storage

FILES = (
    "MANIFEST.json",
    "features.json",
    "model.safetensors",
    "optimizer.pt",
    "optimizer.safetensors",
    "spec.yaml",
    "state.json",
)
PHASES = ("copied", *(f"wrote {name}" for name in FILES), "moved", "pruning", "pruned")
NUM_BEFORE = (
    3  # So many times a phase passes: there are older checkpoints then, one of them to be removed.
)


def main() -> None:
    data, work = Storage(sys.argv[1]), Path(sys.argv[2])
    train(work / "undisturbed", data)
    results = {}
    for number, phase in enumerate(PHASES):
        folder = work / str(number)
        killed = in_fork(
            lambda folder=folder, phase=phase: train(folder, data, KillsInPhase(phase))
        )
        results[phase] = [killed, in_fork(lambda folder=folder: train(folder, data))]
    sys.stdout.write(json.dumps(results))


def in_fork(do: Callable[[], None]) -> int:
    """What the process ended with: 0, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do()
            code = 0
        except Exception:  # noqa: BLE001 - a fork must not go on as the test
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class KillsInPhase(StopsAfter):
    """Kills this process in a phase of writing a checkpoint, once older checkpoints exist."""

    def __init__(self, phase: str) -> None:
        super().__init__(None)
        self.phase = phase
        self.num_passed = 0

    def reached(self, place: str) -> None:
        self.num_passed += place == self.phase
        if self.num_passed > NUM_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, data: Storage, faults: FaultInjector | None = None) -> None:
    worker.fit(
        training_spec(str(folder), checkpoint={"every_steps": 2, "num_to_keep": 2}),
        Storage(str(folder)),
        data,
        hooks=Hooks(faults=faults),
    )


if __name__ == "__main__":
    main()
