"""Runs a command and measures it with all processes that it leaves behind, such as those of Ray.

python -m bench.measured COMMAND ...    the last line: wall_s, cpu_s, peak_bytes
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36


def measure(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds of a command and its descendants, and the memory of the largest.

    Args:
        command: Program and arguments; its output goes where that of this process goes.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    if sys.platform != "linux":
        raise OSError("the processes of Ray can be waited for on Linux only")
    # Processes that lose their parent become children of this one, so that their time counts.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started_s = time.monotonic()
    subprocess.run(command, check=True)
    wall_s = time.monotonic() - started_s
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": used.ru_maxrss * 1024.0}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
