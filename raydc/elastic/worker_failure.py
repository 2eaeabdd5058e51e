"""How a worker failed, on one page, and when two failures count as the same. Runs in each worker.

An unexpected error is wrapped where it happens: only there rank, host, step and rows are known, and
not every exception can be pickled on its way to the driver.
"""

from __future__ import annotations

import re
import socket
import traceback
from collections.abc import Callable
from typing import Any

from raydc.engine.interruption import Interruption
from raydc.errors import RaydcError
from raydc.loop.lost_peer import PeerLostError
from raydc.loop.planned_stop import PlannedStopError

_NUM_FRAMES = 4
_ADDRESS = re.compile("0x[0-9a-f]+")


class WorkerFailure(Exception):  # noqa: N818 - a wrapper; what it wraps is the error.
    """An unexpected error of a worker.

    Args:
        page: Description for a person: who, where, what.
        key: Equal for errors that look the same and come up at the same step.
    """

    def __init__(self, page: str, key: str) -> None:
        super().__init__(page, key)
        self.page = page
        self.key = key

    def __str__(self) -> str:
        return self.page


def guard(rank: int, work: Callable[[], Any]) -> None:
    """Runs the work of a worker and wraps unexpected errors.

    Raises:
        RaydcError: A deliberate refusal; a retry would be refused too.
        PlannedStopError: The workers have agreed to end.
        PeerLostError: A peer died; its own failure says why.
        Interruption: A signal asked this process to end.
        WorkerFailure: Any other error.
    """
    try:
        work()
    except (RaydcError, PlannedStopError, PeerLostError, Interruption):
        raise
    # SystemExit and KeyboardInterrupt too: Ray would take an exit of user code for a success.
    except BaseException as error:
        raise describe(error, rank) from error


def describe(error: BaseException, rank: int) -> WorkerFailure:
    """Wraps an error with its rank, host, step, rows and place in the code.

    Step and rows are the notes that the loop adds to an error (`errors.with_notes`).
    """
    frames: list[traceback.FrameSummary] = list(traceback.extract_tb(error.__traceback__))
    # The frames between two modules of a network are torch's and say nothing.
    frames = [
        frame for frame in frames if not frame.filename.endswith("torch/nn/modules/module.py")
    ]
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-_NUM_FRAMES:]]
    notes = ", ".join(getattr(error, "__notes__", ()))
    what = f"{type(error).__name__}: {error}"
    lines = [
        f"rank {rank} on {socket.gethostname()} failed{' ' + notes if notes else ''}",
        f"  {what}",
    ]
    lines += [f"    at {place}" for place in reversed(places)]
    # Addresses differ in each process, and rows (all notes but the first) on each rank.
    key = "\n".join([_ADDRESS.sub("0x", what), notes.partition(",")[0], *places[-1:]])
    return WorkerFailure("\n".join(lines), key)
