"""Imports what a worker needs, in each process that Ray starts, before it becomes a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from raydc import quick_imports
from raydc.spec.metric import OF_ALL_ROWS

_MODULES = ("raydc.elastic.trainer",)
# First needed at the end of an epoch. A worker that starts at once must not wait for it.
_FOR_SCORES = ("torchmetrics",)
_LATER_S = 6.0


def run() -> None:
    """Ray calls this by name when the process has started (`worker_process_setup_hook`)."""
    quick_imports.begin()
    quick_imports.import_all(*_MODULES)


def run_with_scores() -> None:
    """Like `run`, for workers that validate by the scores of all rows."""
    run()
    later = threading.Timer(_LATER_S, quick_imports.import_all, _FOR_SCORES)
    # A process that ends earlier does not wait for the timer.
    later.daemon = True
    later.start()


def entry_of(metrics: Iterable[str]) -> str:
    """The function of this module for workers that compute these metrics, as Ray wants it."""
    function = run_with_scores if OF_ALL_ROWS & set(metrics) else run
    return f"{function.__module__}.{function.__name__}"
