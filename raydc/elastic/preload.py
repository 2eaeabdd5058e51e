"""Imports what a worker needs, in each process that Ray starts, before it becomes a worker."""

from __future__ import annotations

import contextlib
import importlib
import threading

from raydc import quick_imports

# torch imports its compiler only at the first optimiser step, which would be slow.
_MODULES = ("raydc.elastic.trainer", "torch._dynamo")
# First needed at the end of an epoch. A worker that starts at once must not wait for it.
_LATER = ("torchmetrics",)
_LATER_S = 6.0


def run() -> None:
    """Ray calls this by name when the process has started (`worker_process_setup_hook`)."""
    quick_imports.begin()
    _import(_MODULES)
    later = threading.Timer(_LATER_S, _import, [_LATER])
    # A process that ends earlier does not wait for the timer.
    later.daemon = True
    later.start()


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        # An error here would end the process; code that needs the module reports it better.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
