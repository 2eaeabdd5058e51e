"""Runs a command of raydc and says in which of its functions the time went.

    python -m bench.shares prepare spec.yaml

Two hundred times a second all threads are looked at. One that waits for a lock, a queue or a child
is left out; what any other does counts for the innermost function of raydc that it is in. The last
line is JSON: shares by function, the largest first.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

from raydc.cli import main

PACKAGE = str(Path(__file__).resolve().parent.parent / "raydc")
_EVERY_S = 0.005
_MOST = 12
# Modules of Python in whose functions a thread waits.
_WAITING = ("threading", "queue", "concurrent", "selectors", "subprocess", "socket")
_IMPORTS = "imports"


class _Sampler(threading.Thread):
    """Counts what the threads of this process do, until it is told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.counts: Counter[str] = Counter()
        self._is_over = threading.Event()

    def end(self) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            for thread, frame in sys._current_frames().items():
                if thread != self.ident and (name := _name_of(frame)) is not None:
                    self.counts[name] += 1


def _name_of(frame: FrameType) -> str | None:
    """The function that the time of a thread counts for; None if it waits."""
    if frame.f_globals.get("__name__", "").split(".")[0] in _WAITING:
        return None
    inner: FrameType | None = frame
    while inner is not None:
        if inner.f_globals.get("__name__", "").startswith("importlib"):
            return _IMPORTS
        path = inner.f_code.co_filename
        if path.startswith(PACKAGE):
            return f"{path[len(PACKAGE) + 1 :]}:{inner.f_code.co_qualname}"
        inner = inner.f_back
    return None


if __name__ == "__main__":
    sampler = _Sampler()
    sampler.start()
    try:
        main(sys.argv[1:], standalone_mode=False)
    finally:
        sampler.end()
        total = sampler.counts.total()
        shares = {name: count / total for name, count in sampler.counts.most_common(_MOST)}
        print(json.dumps(shares))
