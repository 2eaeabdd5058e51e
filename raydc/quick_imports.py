"""Imports that take less time: with less garbage collection, and beside a wait.

An import makes some hundred thousand objects that live as long as the process. Python looks through
them again and again for garbage, and once more when it ends: half of the time that torch and Ray
take. For commands, and for the processes that a local Ray starts.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading
from collections.abc import Iterator

# New objects between two collections; Python's own number is 700. More of them save nothing more.
_IMPORTING = 10_000
_normal = gc.get_threshold()
_has_ended = False


def begin() -> None:
    """Collects garbage less often from now on. Ray calls it in each process that it starts."""
    gc.set_threshold(_IMPORTING, *_normal[1:])


def end() -> None:
    """Collects garbage as usual again, but leaves out what there is now; it will hardly go.

    Call it when a process begins its real work: garbage may then hold a step's tensors. Later
    calls leave out nothing more, and collect what the work before has left: it may be as large as
    a model, which Python's counts of objects do not tell.
    """
    global _has_ended
    if gc.get_threshold() == (_IMPORTING, *_normal[1:]):
        gc.set_threshold(*_normal)
    # What is garbage now would stay for ever if it were left out.
    gc.collect()
    if not _has_ended:
        _has_ended = True
        gc.freeze()


@contextlib.contextmanager
def beside(*names: str, after_s: float = 0.0) -> Iterator[None]:
    """Imports modules while the block waits for something else, and ends with the later of both.

    The block must not import what these modules import too, unless one of both comes from a package
    that knows nothing of the other: modules that import each other, begun from two sides, can come
    out half made.

    Args:
        names: Modules in the order in which they are imported. One that is missing is left out: who
            needs it says so better.
        after_s: How long the block works before it begins to wait: an import would slow that down.
    """
    is_over = threading.Event()

    def run() -> None:
        is_over.wait(after_s)
        import_all(*names)

    thread = threading.Thread(target=run, name="raydc-imports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def import_all(*names: str) -> None:
    """Imports modules in this order, without those that fail: who needs them says so better."""
    for name in names:
        # A module may raise anything while it is imported.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def leave() -> None:
    """Lets Python end without a last look through everything. Call it at the end of a process."""
    gc.freeze()
