"""The numbers of a model's versions: `versions/<n>.json` says what bundle has the number `n`.

Creating that file exclusively is what gives the number. Any process may register.
"""

from __future__ import annotations

import re
import time
from typing import Any

from raydc.errors import RegistryError
from raydc.storage import Storage, canonical_json, seal

# Each attempt loses to one other writer, so the limit is how many writers can be ahead at once.
_MAX_ATTEMPTS = 100
# Another process that has just taken a number may not have begun its copy yet.
_COPY_BEGINS_S = 60.0


def find_number(folder: Storage, digest: str, below: int | None = None) -> int | None:
    """The number that a bundle has already, even if its copy is not complete or damaged.

    Args:
        folder: Folder of the model in the registry.
        digest: sha256 of the bundle's manifest.
        below: Only smaller numbers count; None looks at all.

    Returns:
        The number; None if the bundle has none, or if that version was removed.
    """
    entries = folder.names("versions")
    for number in _recorded(entries):
        if below is not None and number >= below:
            break
        try:
            record = folder.read_json(f"versions/{number}.json")
            is_same = record["digest"] == digest
            is_new = abs(time.time() - record["time_s"]) < _COPY_BEGINS_S
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue  # Without its record a version is known by its manifest alone.
        # Only the record of a removed version stays.
        if is_same and (is_new or str(number) in entries):
            return number
    return None


def reserve(folder: Storage, digest: str, source: dict[str, Any]) -> int:
    """Gives a bundle its number.

    Args:
        folder: Folder of the model in the registry.
        digest: sha256 of the bundle's manifest.
        source: JSON values that describe its origin.

    Returns:
        The next number; the one of another process that registers the same bundle meanwhile.

    Raises:
        RegistryError: Other writers were faster each time.
    """
    record = {**source, "digest": digest, "time_s": round(time.time(), 3)}
    content = canonical_json(seal(record), indent=2) + b"\n"
    entries = folder.names("versions")
    # Numbers of removed versions, of failed copies and of versions whose record was lost count too:
    # none is given twice.
    taken = [*_recorded(entries), *(int(entry) for entry in entries if entry.isdigit())]
    first = max(taken, default=0) + 1
    for number in range(first, first + _MAX_ATTEMPTS):
        if folder.create_bytes(f"versions/{number}.json", content):
            # A process that was faster with the same bundle has a smaller number by now.
            other = find_number(folder, digest, below=number)
            if other is None:
                return number
            folder.delete(f"versions/{number}.json")
            return other
    raise RegistryError(
        f"{folder.uri}: other writers took the next {_MAX_ATTEMPTS} version numbers",
        "Try again.",
    )


def _recorded(entries: list[str]) -> list[int]:
    return sorted(int(entry[:-5]) for entry in entries if re.fullmatch(r"\d+\.json", entry))
