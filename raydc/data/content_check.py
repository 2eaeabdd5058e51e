"""Compares files on this machine with the hashes of their manifest. Runs where rows are read.

A file is hashed before its first row is used, and once a day by each machine. A stamp remembers it:
an empty file, named by what identifies the file (device, inode, size and times) and by its hash. A
write gives the file a new time of change, and so no stamp.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydc.checksummed_folder import mismatch
from raydc.storage import sha256

# A disk may lose a bit without a write, which no time of change shows.
_STAMP_LIFETIME_S = 24 * 3600.0


def cache_folder() -> Path:
    """Folder of this user for what readers of data sets keep on this machine."""
    # By user, because the folder of temporary files is shared.
    return Path(tempfile.gettempdir()) / f"raydc-shards-{os.getuid()}"


def compare(path: Path, entry: Mapping[str, Any]) -> str | None:
    """Compares a file with its entry in a manifest, by a stamp or by its whole content.

    Args:
        path: File on a disk of this machine, whose status tells if it has changed.
        entry: `bytes` and `sha256` that the manifest states for it.

    Returns:
        What was expected and what was found; None if they agree.

    Raises:
        OSError: The file cannot be read.
    """
    # Asked before the content is read: a write meanwhile makes another identity.
    status = path.stat()
    identity = (
        f"{path} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} "
        f"{status.st_ctime_ns} {entry['sha256']}"
    )
    folder = _stamp_folder()
    stamp = folder / sha256(identity.encode()) if folder is not None else None
    if stamp is not None and _is_fresh(stamp):
        return None
    # A wrong size is enough, and saves reading gigabytes.
    digest = _digest(path) if status.st_size == entry["bytes"] else ""
    wrong = mismatch(status.st_size, digest, entry)
    if wrong is None and stamp is not None:
        # Without a stamp the next process hashes the file again.
        with contextlib.suppress(OSError):
            stamp.touch()
    return wrong


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_fresh(stamp: Path) -> bool:
    try:
        return abs(time.time() - stamp.stat().st_mtime) < _STAMP_LIFETIME_S
    except OSError:
        return False


@functools.cache
def _stamp_folder() -> Path | None:
    """Folder of the stamps, without old ones; None if another user could write stamps there."""
    folder = cache_folder() / "verified"
    try:
        for path in (folder.parent, folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_uid != os.getuid():
                return None
        for stamp in folder.iterdir():
            if not _is_fresh(stamp):
                stamp.unlink(missing_ok=True)
    except OSError:
        return None
    return folder
