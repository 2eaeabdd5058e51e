"""Imports torch in a process of an endpoint that has nothing to do yet. Runs in that process.

Ray Serve first runs a task that builds the application, and starts the replica when it has ended.
Ray starts a process for each at once, so the second one waits for seconds, in which it can import
what the replica needs.
"""

from __future__ import annotations

import sys
import threading

from raydc import quick_imports

# No module of Ray, see `quick_imports.beside`: the process gets its work meanwhile.
_MODULES = ("torch", "raydc.bundle")
# The process that builds the application has begun to import Ray Serve after this time.
_IDLE_S = 0.4
_BUSY = "ray.serve"


def begin() -> None:
    """Ray calls this by name when the process has started (`worker_process_setup_hook`)."""
    quick_imports.begin()
    timer = threading.Timer(_IDLE_S, import_if_idle)
    # A process that ends earlier does not wait for it.
    timer.daemon = True
    timer.start()


def import_if_idle() -> None:
    """Imports what a replica needs, unless the process works already: that would slow it down."""
    if _BUSY not in sys.modules:
        quick_imports.import_all(*_MODULES)
