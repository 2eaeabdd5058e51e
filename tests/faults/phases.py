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

from training import training_spec

from raydc.checkpoint.store import CheckpointStore
from raydc.loop import worker
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
        killed = in_fork(lambda folder=folder, phase=phase: train_and_die(folder, data, phase))
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


def train(folder: Path, data: Storage) -> None:
    worker.fit(
        training_spec(str(folder), checkpoint={"every_steps": 2, "num_to_keep": 2}),
        Storage(str(folder)),
        data,
    )


def train_and_die(folder: Path, data: Storage, phase: str) -> None:
    seen = []

    def reached(name: str) -> None:
        seen.append(name)
        if seen.count(phase) > NUM_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointStore.reached = staticmethod(reached)
    train(folder, data)


if __name__ == "__main__":
    main()
