"""Places of rows in messages that were made where only blocks are known. Pure.

Features name a value as `rows[i].column`, by its place in a block, which tells a user nothing. The
task puts the id of the row in its place, and the driver, which knows the files, puts their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from raydc.data.layout import Layout
from raydc.errors import DataError
from raydc.order import Ids

_PLACE = re.compile(r"rows\[(\d+)\]\.?")
_ID = re.compile(r"row #(\d+): ")


def place_of(row_id: int) -> str:
    """Stands for a row in a message until `with_files` names it."""
    return f"row #{row_id}"


@contextmanager
def with_ids(ids: Ids) -> Iterator[None]:
    """Puts ids of rows into errors of features.

    Args:
        ids: int64 [B], ids of the rows that the block of code works on.

    Raises:
        DataError: The error of features, with the id of its row.
    """
    try:
        yield
    except DataError as error:
        found = _PLACE.match(error.message)
        if found is None or int(found[1]) >= len(ids):
            raise
        place = place_of(int(ids[int(found[1])]))
        raise DataError(f"{place}: " + error.message[found.end() :], error.hint) from error


@contextmanager
def with_files(layout: Layout) -> Iterator[None]:
    """Puts names of files into errors that have ids.

    Args:
        layout: Files of the source.

    Raises:
        DataError: The error, with the place of its row.
    """
    try:
        yield
    except DataError as error:
        found = _ID.match(error.message)
        if found is None:
            raise
        place = layout.describe_row(int(found[1]))
        raise DataError(f"{place}: {error.message[found.end() :]}", error.hint) from None
