"""Workers that were just starting when their Ray ended. Runs in the driver.

A worker notices the end of its Ray by a connection that breaks. One that has none yet goes on
trying for up to a minute.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

# A process by its number and its start, because numbers are reused.
Process = tuple[int, str]

_START = 20  # The place of `starttime` in what `_stat` returns.


def find_workers() -> set[Process]:
    """The workers of the raylet that this process has started."""
    stats = {int(entry.name): _stat(entry) for entry in _entries()}
    raylets = {
        number
        for number, stat in stats.items()
        if stat and stat[0] == "raylet" and stat[2] == str(os.getpid())
    }
    return {
        (number, stat[_START]) for number, stat in stats.items() if stat and int(stat[2]) in raylets
    }


def end_late_workers(session: str, known: set[Process]) -> list[int]:
    """Kills the processes of a session whose Ray has ended; returns their numbers.

    Args:
        session: Name of the session, which no other Ray has.
        known: Workers from before its end: they may have hidden their arguments by a title.
    """
    argument = f"--session-name={session}".encode()
    killed = []
    for entry in _entries():
        # A process may end meanwhile, or belong to another user.
        with contextlib.suppress(OSError):
            number, stat = int(entry.name), _stat(entry)
            is_known = bool(stat) and (number, stat[_START]) in known
            if is_known or argument in (entry / "cmdline").read_bytes().split(b"\0"):
                os.kill(number, signal.SIGKILL)
                killed.append(number)
    return killed


def _entries() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _stat(entry: Path) -> list[str]:
    """Name, state, parent and so on of a process, as in proc(5); empty if it has ended."""
    try:
        text = (entry / "stat").read_text()
    except OSError:
        return []
    # The name may itself contain spaces and parentheses.
    name, _, rest = text.partition("(")[2].rpartition(")")
    return [name, *rest.split()]
