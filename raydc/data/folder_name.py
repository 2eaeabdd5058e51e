"""Which folder below `data/` holds a data set: a name, and the start of its hash. Pure.

Used wherever data sets are prepared, read or listed.
"""

from __future__ import annotations

from collections.abc import Iterable

# A stem of the hash in hexadecimal digits, enough to tell the data sets of one storage apart.
_HASH_DIGITS = 12


def folder_name(spec_name: str, data_hash: str) -> str:
    """Name of the folder that a spec prepares.

    Args:
        spec_name: `name` of the spec.
        data_hash: Hash of everything that the content depends on, of which the name is no part.
    """
    return f"{spec_name}-{data_hash[:_HASH_DIGITS]}"


def same_content(names: Iterable[str], spec_name: str, data_hash: str) -> list[str]:
    """Folders that may hold a data set: first that of the spec, then those of other names.

    Args:
        names: Folders that are there.
        spec_name: As for `folder_name`.
        data_hash: As for `folder_name`.
    """
    own = folder_name(spec_name, data_hash)
    ending = f"-{data_hash[:_HASH_DIGITS]}"
    found = sorted(name for name in names if name.endswith(ending) and not name.startswith("."))
    return sorted(found, key=lambda name: name != own)
