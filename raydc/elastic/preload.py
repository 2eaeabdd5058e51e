"""Imports what a worker needs, in each process that Ray starts, before it becomes a worker."""

from __future__ import annotations

from raydc import quick_imports

_MODULES = ("raydc.elastic.trainer",)


def run() -> None:
    """Ray calls this by name when the process has started (`worker_process_setup_hook`)."""
    quick_imports.begin()
    quick_imports.import_all(*_MODULES)


# How Ray wants to be told of it.
ENTRY = f"{run.__module__}.{run.__name__}"
