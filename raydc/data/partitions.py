"""Columns that stand in the names of folders, as `region=north/part-0.csv`. Pure.

Hive, Spark and pyarrow write tables so; the files themselves lack these columns.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Collection, Sequence

import pyarrow as pa

from raydc.data import values
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
        Names of the columns, in the order of the folders.

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


def read_columns(
    file: SourceFile, columns: Collection[str], num_rows: int
) -> dict[str, pa.ChunkedArray]:
    """Columns of a file's rows that stand in the names of its folders.

    Args:
        file: File whose path has the folders.
        columns: Names of the columns that are in the file.
        num_rows: Rows of the file that get these cells.

    Raises:
        DataError: A column is in both.
    """
    found = columns_of(file)
    values.refuse_internal(file.path, found)
    if both := found.keys() & set(columns):
        raise DataError(
            f"{file.path}: the column {min(both)!r} is in the file and in the names of folders",
            "data.partitioning: ignore reads that of the file.",
        )
    return {
        name: pa.chunked_array([pa.repeat(pa.scalar(value, pa.string()), num_rows)])
        for name, value in found.items()
    }
