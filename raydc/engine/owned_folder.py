"""A temporary folder that ends with its process; if that is killed, the next one removes it.

Runs in the driver and in replicas. The owner holds a lock on a file in the folder, which the system
releases however the owner ends. A folder without such a file may belong to anybody, and is left
alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_LOCK_FILE = "owner.lock"


class OwnedFolder(tempfile.TemporaryDirectory[str]):
    """A private folder, which this process owns until `cleanup` or its end.

    Args:
        prefix: First part of its name; folders with it whose owner is gone are removed first.
        parent: Folder that it is made in.
    """

    def __init__(self, prefix: str, parent: str) -> None:
        _remove_orphans(prefix, parent)
        super().__init__(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
        self._lock = _own(Path(self.name))

    def cleanup(self) -> None:
        """Removes the folder; nothing happens if it is removed already."""
        super().cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _own(folder: Path) -> int | None:
    """Locks a new folder; returns the descriptor, or None on a filesystem without locks."""
    # It gets its name with the lock on it, so nobody can find it without.
    new = folder / f"{_LOCK_FILE}.new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    new.rename(folder / _LOCK_FILE)
    return descriptor


def _remove_orphans(prefix: str, parent: str) -> None:
    for lock in Path(parent).glob(f"{prefix}*/{_LOCK_FILE}"):
        # Folders of other users cannot be read, and one may be removed by its owner meanwhile.
        with contextlib.suppress(OSError):
            _remove_orphan(lock)


def _remove_orphan(lock: Path) -> None:
    """Removes the folder of a lock that nobody holds. Raises OSError if it is held."""
    descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        # Another process's folder is not trusted with what it may link to.
        if lock.parent.is_symlink() or os.fstat(descriptor).st_uid != os.getuid():
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.parent, ignore_errors=True)
    finally:
        os.close(descriptor)
