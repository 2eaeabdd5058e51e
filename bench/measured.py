"""Runs a command and measures it with all processes that it starts, such as those of Ray.

python -m bench.measured COMMAND ...    the last line: wall_s, cpu_s, peak_bytes

The kernel adds the time of a process to its parent's only if the parent waits for it, which Ray's
raylet does not do for its workers. So all processes are looked at, ten times a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_EVERY_S = 0.1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def measure(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds of a command and its descendants, and the most memory that they had.

    Memory is what they do not share, and once what the largest user shares with others, such as
    Ray's object store. Pages of files do not count: the kernel can drop them.

    Args:
        command: Program and arguments; its output goes where that of this process goes.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    if sys.platform != "linux":
        raise OSError("processes are measured by /proc, on Linux only")
    # Processes that lose their parent become children of this one, so that they stay in sight.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watch = _Watch()
    watch.start()
    started_s = time.monotonic()
    subprocess.run(command, check=True)
    wall_s = time.monotonic() - started_s
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    watch.end()
    return {"wall_s": wall_s, "cpu_s": sum(watch.cpu_s.values()), "peak_bytes": watch.peak_bytes}


def run_for_json(command: list[str], variables: Mapping[str, str] | None = None) -> Any:
    """Runs a command and returns what the last line of its output says, as JSON.

    Args:
        command: Program and arguments; it can import this checkout.
        variables: Environment variables that are set besides those of this process.

    Raises:
        SystemExit: The command failed.
    """
    paths = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class _Watch(threading.Thread):
    """Looks at all descendants of this process until it is told to end.

    Attributes:
        cpu_s: Seconds of user and system time of each process, by its id and start.
        peak_bytes: Most memory of all together that was seen.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.cpu_s: dict[tuple[int, str], float] = {}
        self.peak_bytes = 0.0
        self._is_over = threading.Event()

    def end(self) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        while not self._is_over.wait(_LOOK_EVERY_S):
            own, shared = 0, [0]
            for pid, fields in _descendants():
                # Fields 14 and 15 of proc(5) are user and system time, 22 is the start.
                ticks = int(fields[11]) + int(fields[12])
                self.cpu_s[pid, fields[19]] = ticks / _TICKS_PER_S
                # The process may have ended since.
                with contextlib.suppress(OSError, KeyError):
                    sizes = _memory(pid)
                    own += sizes["RssAnon"]
                    shared.append(sizes["RssShmem"])
            self.peak_bytes = max(self.peak_bytes, float(own + max(shared)))


def _descendants() -> Iterator[tuple[int, list[str]]]:
    """Id and fields of /proc/ID/stat, from the third on, of each descendant of this process."""
    found: dict[int, list[str]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                # The name of the program, in brackets, may hold blanks and brackets.
                found[int(path.name)] = (path / "stat").read_text().rpartition(")")[2].split()
    children: dict[int, list[int]] = {}
    for pid, fields in found.items():
        children.setdefault(int(fields[1]), []).append(pid)
    todo = [os.getpid()]
    while todo:
        for pid in children.get(todo.pop(), []):
            yield pid, found[pid]
            todo.append(pid)


def _memory(pid: int) -> dict[str, int]:
    """Bytes by the names of /proc/ID/status, such as `RssAnon`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(number) * 1024 for name, number, _ in sizes}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
