"""How a worker failed, on one page: what of it is told, and when it is the same again.

An error of the model, of a transform or of raydc itself is wrapped where it happens, because there the rank, the host,
the step and the rows are known, and because not every exception survives the way to the driver.
"""

from __future__ import annotations

import re
import socket
import traceback
from collections.abc import Callable
from typing import Any

from raydc.errors import RaydcError
from raydc.loop.group import PeerLostError
from raydc.loop.planned_stop import PlannedStopError

_FRAMES = 4
_ADDRESS = re.compile("0x[0-9a-f]+")


class WorkerFailure(Exception):  # noqa: N818 - a wrapper; what it wraps is the error.
    """An unexpected error of a worker.

    Args:
        page: Who, where, what, for a person.
        key: Equal for what looks like the same error at the same step.
    """

    def __init__(self, page: str, key: str) -> None:
        super().__init__(page, key)
        self.page = page
        self.key = key

    def __str__(self) -> str:
        return self.page


def guard(rank: int, work: Callable[[], Any]) -> None:
    """Runs a worker's part.

    Raises:
        RaydcError: Deliberate; there is no use in trying again.
        LeftError: The workers have agreed to end.
        PeerLostError: The peer has more to tell.
        WorkerFailure: Anything else.
    """
    try:
        work()
    except (RaydcError, PlannedStopError, PeerLostError):
        raise
    except Exception as error:
        raise describe(error, rank) from error


def describe(error: Exception, rank: int) -> WorkerFailure:
    """Rank, host, step and rows (the notes that the loop adds), the error, and where in the code it came up."""
    frames: list[traceback.FrameSummary] = list(traceback.extract_tb(error.__traceback__))
    # How torch calls a module says nothing.
    frames = [
        frame for frame in frames if not frame.filename.endswith("torch/nn/modules/module.py")
    ]
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-_FRAMES:]]
    notes = ", ".join(getattr(error, "__notes__", ()))
    what = f"{type(error).__name__}: {error}"
    lines = [
        f"rank {rank} on {socket.gethostname()} failed{' ' + notes if notes else ''}",
        f"  {what}",
    ]
    lines += [f"    at {place}" for place in reversed(places)]
    key = "\n".join([_ADDRESS.sub("0x", what), notes.partition(",")[0], *places[-1:]])
    return WorkerFailure("\n".join(lines), key)
