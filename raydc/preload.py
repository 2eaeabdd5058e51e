"""What every process does that is started for a worker: import what a worker needs, before it is one."""

from __future__ import annotations

import contextlib
import importlib

_MODULES = ("raydc.trainer", "torch.distributed", "tensorboardX")


def run() -> None:
    """Ray calls it by name when the process has started. What is missing is told by whoever needs it."""
    for name in _MODULES:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
