"""Columns that stand in the names of folders, as `region=north/part-0.csv`. Pure.

Hive, Spark and pyarrow write tables so; the files themselves lack these columns.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from raydc.data.layout import SourceFile
from raydc.errors import DataError

_MISSING = ("", "__HIVE_DEFAULT_PARTITION__")


def columns_of(file: SourceFile) -> dict[str, str | None]:
    """Values by column from the folders of a file; None for a missing value."""
    folders = file.name.split("/")[:-1]
    pairs = [folder.split("=", 1) for folder in folders if "=" in folder[1:]]
    return {
        urllib.parse.unquote(name): None if value in _MISSING else urllib.parse.unquote(value)
        for name, value in pairs
    }


def check(files: Sequence[SourceFile]) -> list[str]:
    """Compares the columns in the folders of all files.

    Args:
        files: Files of a table, at least one.

    Returns:
        Names of the columns.

    Raises:
        DataError: Two files have different ones.
    """
    first = list(columns_of(files[0]))
    for file in files:
        found = list(columns_of(file))
        if set(found) != set(first):
            raise DataError(
                f"the folders of {files[0].path} name the columns {_listed(first)}, but those of "
                f"{file.path} {_listed(found)}",
                "data.partitioning: ignore reads the files without them.",
            )
    return first


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
