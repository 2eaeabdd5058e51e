"""Rows of queries, functions and hubs as tables, with ids made from a key. Runs in the driver.

All rows are held in memory at once.
"""

from __future__ import annotations

import decimal
import hashlib
import importlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from raydc.data import hub_rows, values
from raydc.data.row_digest import digest_rows
from raydc.errors import DataError, first_line, shown
from raydc.spec.label_text import text_of
from raydc.spec.row_sources import (
    HuggingFaceRows,
    RowFunction,
    RowSource,
    SqlQuery,
    TorchvisionRows,
)
from raydc.user_import import import_path

# Ids of one file have 40 bits, see `raydc.data.layout`.
_NUM_IDS = 1 << 40
_ROWS_PER_FETCH = 10_000
_NUMBER = "a number"


def read_rows(source: RowSource) -> pa.Table:
    """Reads all rows of a source, in the order of their ids.

    Args:
        source: A query, a function, or a data set of a hub.

    Raises:
        DataError: The source cannot be read, or a row has no key or that of another one.
    """
    what = name_of(source)
    if isinstance(source, HuggingFaceRows | TorchvisionRows):
        table, digests = hub_rows.read_rows(what, source)
        return _of_table(what, source.key, table, digests)
    columns = _run_query(source) if isinstance(source, SqlQuery) else _call(source)
    if source.key not in columns:
        there = f"There are {', '.join(columns)}." if columns else "There are no rows."
        raise DataError(f"{what}: there is no column {source.key!r}, which is the key", there)
    values.refuse_internal(what, columns)
    keys = columns[source.key]
    ids = make_ids(what, source.key, keys)

    def place_of(row: int) -> str:
        return f"{what}: row with {source.key} = {keys[row]!r}"

    table = pa.table({name: _array(name, cells, place_of) for name, cells in columns.items()})
    order = np.argsort(ids, kind="stable")
    return table.append_column(values.ROW_ID, pa.array(ids)).take(pa.array(order))


def _of_table(
    what: str, key: str | None, table: pa.Table, digests: Sequence[bytes] | None
) -> pa.Table:
    values.refuse_internal(what, table.column_names)
    if not table.num_rows:
        raise DataError(f"{what}: there are no rows in it", "Is it the right split?")
    if key is not None:
        if key not in table.column_names:
            there = f"There are {', '.join(table.column_names)}."
            raise DataError(f"{what}: there is no column {key!r}, which is the key", there)
        ids = make_ids(what, key, table.column(key).to_pylist())
    else:
        columns = {name: table.column(name) for name in table.column_names}
        counts: Counter[bytes] = Counter()
        keys = []
        for digest in digests or digest_rows(columns, table.num_rows):
            counts[digest] += 1
            # Equal rows are told apart by their number: which of them is which changes nothing.
            keys.append(f"{digest.hex()}:{counts[digest]}")
        ids = make_ids(what, "content", keys)
    order = np.argsort(ids, kind="stable")
    return table.append_column(values.ROW_ID, pa.array(ids)).take(pa.array(order))


def name_of(source: RowSource) -> str:
    """Names a source for messages."""
    if isinstance(source, HuggingFaceRows):
        return f"Hugging Face data set {source.huggingface}"
    if isinstance(source, TorchvisionRows):
        return f"torchvision data set {source.torchvision} in {source.folder}"
    if isinstance(source, RowFunction):
        return f"function {source.function}"
    return f"query {shown(source.sql[:60])}"


def _array(name: str, cells: Sequence[Any], place_of: Callable[[int], str]) -> pa.Array:
    """A column of cells of one type; `place_of` names a row for messages."""
    try:
        return pa.array(cells)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        kinds = [None if cell is None else _kind_of(cell) for cell in cells]
        first = next((row for row, kind in enumerate(kinds) if kind is not None), 0)
        is_other = (row for row, kind in enumerate(kinds) if kind not in (None, kinds[first]))
        other = next(is_other, first)
        if kinds[other] != kinds[first]:
            raise DataError(
                f"{place_of(other)}: {name}: {shown(cells[other])} is {kinds[other]}, but the "
                f"first value, {shown(cells[first])}, is {kinds[first]}",
                "A column has values of one type. In SQL, CAST makes them so.",
            ) from error
        if kinds[first] == _NUMBER:
            # Arrow has no integers beyond 64 bits and does not mix decimals with floats. A network
            # computes with floats anyway.
            return pa.array([_float(name, cell, place_of(row)) for row, cell in enumerate(cells)])
        raise DataError(f"{place_of(first)}: {name}: {first_line(error)}") from error


def _float(name: str, cell: Any, place: str) -> float | None:
    try:
        return None if cell is None else float(cell)
    except OverflowError:
        # The number has hundreds of digits, more than a message should show.
        raise DataError(
            f"{place}: {name}: the value is beyond the range of 64-bit floats, about 1.8e308",
            "Divide the column, or leave the row out, in the query or function.",
        ) from None


def _kind_of(cell: Any) -> str:
    if isinstance(cell, int | float | decimal.Decimal) and not isinstance(cell, bool):
        return _NUMBER
    return f"a {type(cell).__name__}"


def make_ids(what: str, key: str, keys: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ids of rows by their keys, which other rows do not change.

    A whole number that fits is the id itself. Other keys are hashed; of two with one id, of which
    there is one pair in a million rows or so, the later in order takes the next free id.

    Args:
        what: Names the source, for messages.
        key: Name of the key, for messages.
        keys: Keys of the rows, in their order.

    Raises:
        DataError: A row has no key, or that of another one.
    """
    texts = [None if cell is None else text_of(cell) for cell in keys]
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text is None:
            raise DataError(
                f"{what}: row {row + 1} has no {key}, which is the key",
                "Each row needs a key of its own; leave rows without one out.",
            )
        if first.setdefault(text, row) != row:
            raise DataError(
                f"{what}: rows {first[text] + 1} and {row + 1} have the same {key}, {text!r}",
                "Each row needs a key of its own.",
            )
    by_text = {
        text: cell
        for text, cell in zip(texts, keys, strict=True)
        if text is not None and type(cell) is int and 0 <= cell < _NUM_IDS
    }
    taken = set(by_text.values())
    for text in sorted(first.keys() - by_text.keys()):
        place = _hash_of(text)
        while place in taken:
            place = (place + 1) % _NUM_IDS
        taken.add(place)
        by_text[text] = place
    return np.array([by_text[text or ""] for text in texts], dtype=np.int64)


def _hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=5).digest(), "little")


def _run_query(source: SqlQuery) -> dict[str, list[Any]]:
    what, connection = name_of(source), source.connection
    if connection.startswith("$"):
        name = connection[1:]
        if not os.environ.get(name):
            raise DataError(
                f"{what}: the environment variable {name} is not set",
                f"Set it where raydc runs: export {name}=postgresql://...",
            )
        connection = os.environ[name]
    connect, error_type = _driver(what, connection)
    try:
        with closing(connect()) as database:
            cursor = database.cursor()
            cursor.execute(source.sql)
            if cursor.description is None:
                raise DataError(f"{what} gives no rows", "It must be a SELECT.")
            names = [column[0] for column in cursor.description]
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(f"{what} has two columns {twice[0]!r}", "Rename one: AS ...")
            columns: dict[str, list[Any]] = {name: [] for name in names}
            while rows := cursor.fetchmany(_ROWS_PER_FETCH):
                for name, cells in zip(names, zip(*rows, strict=True), strict=True):
                    columns[name].extend(cells)
    except error_type as error:
        raise DataError(f"{what} failed: {first_line(error)}") from error
    return columns


def _driver(what: str, connection: str) -> tuple[Any, type[Exception]]:
    """A function that connects, and the errors of its driver."""
    if connection.startswith("sqlite:///"):
        path = connection.removeprefix("sqlite:///")
        return lambda: sqlite3.connect(f"file:{path}?mode=ro", uri=True), sqlite3.Error
    if connection.startswith("postgresql://"):
        try:
            psycopg = importlib.import_module("psycopg")
        except ImportError as error:
            raise DataError(
                f"{what}: PostgreSQL needs the package psycopg", "pip install 'raydc[postgres]'"
            ) from error
        return lambda: psycopg.connect(connection), psycopg.Error
    raise DataError(f"{what}: the connection begins with neither sqlite:/// nor postgresql://")


def _call(source: RowFunction) -> dict[str, list[Any]]:
    what = name_of(source)
    try:
        function = import_path(source.function)
    except LookupError as error:
        raise DataError(f"{what}: {error}") from error.__cause__ or error
    try:
        rows: Iterable[Any] = function(**source.arguments)
        return _to_columns(what, iter(rows))
    except DataError:
        raise
    # A function of the user may raise anything.
    except Exception as error:
        raise DataError(f"{what} failed: {type(error).__name__}: {first_line(error)}") from error


def _to_columns(what: str, rows: Iterator[Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    num_rows = 0
    for row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{what}: row {num_rows + 1} is {shown(row)}, not a dict")
        for name, cell in row.items():
            cells = columns.setdefault(str(name), [])
            cells.extend([None] * (num_rows - len(cells)))
            cells.append(cell)
        num_rows += 1
    for cells in columns.values():
        cells.extend([None] * (num_rows - len(cells)))
    return columns
