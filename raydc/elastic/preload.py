"""What every process does that is started for a worker: import what a worker needs, before it is one."""

from __future__ import annotations

import contextlib
import importlib
import threading

_MODULES = ("raydc.elastic.trainer", "torch._dynamo")
# Needed at the end of an epoch: a worker that has no time to lose does not wait for it.
_LATER = ("torchmetrics",)
_LATER_S = 6.0


def run() -> None:
    """Ray calls it by name when the process has started."""
    _load(_MODULES)
    later = threading.Timer(_LATER_S, _load, [_LATER])
    later.daemon = True
    later.start()


def _load(names: tuple[str, ...]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # What is missing is told by whoever needs it.
            importlib.import_module(name)
