"""Writes tables to one file, which appears whole or not at all. Runs in the driver.

The suffix of the name decides between CSV, Parquet and JSON Lines.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from raydc.errors import DataError, UsageError, first_line
from raydc.storage import Storage, split_query

# Readers fetch and skip row groups as a whole, and each has statistics of its own.
_ROW_GROUP_BYTES = 32 * 1024 * 1024


class TableWriter:
    """A context manager that appends tables to a file; the first table sets the columns.

    Args:
        path: Local path or URI that ends in `.csv`, `.parquet` or `.jsonl`.

    Raises:
        UsageError: The name has no such suffix.
    """

    def __init__(self, path: str) -> None:
        base, query = split_query(path)
        folder, _, name = base.rpartition("/")
        self.path = path
        self._open_file = _find_format(base)
        self._folder = Storage((folder or ("/" if path.startswith("/") else ".")) + query)
        self._name = name
        self._temporary = f".{name}.{uuid.uuid4().hex[:8]}.tmp"
        self._stream: Any = None
        self._file: Any = None
        self._schema: pa.Schema | None = None

    def __enter__(self) -> TableWriter:
        self._folder.filesystem.create_dir(self._folder.root, recursive=True)
        self._stream = self._folder.filesystem.open_output_stream(
            f"{self._folder.root}/{self._temporary}"
        )
        return self

    def write(self, table: pa.Table) -> None:
        """Appends rows.

        Raises:
            DataError: The table has a column that the first table did not have.
        """
        if self._schema is None:
            self._schema = table.schema
            self._file = self._open_file(self._stream, table.schema)
        for name in table.column_names:
            if name not in self._schema.names:
                hint = "Give every row the same columns, with null for a missing value."
                raise DataError(f"{self.path}: column {name!r} is missing in the first rows", hint)
        self._file.write_table(_with_schema(table, self._schema))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._give_up()
            return
        try:
            # Writes the rows that wait.
            if self._file is not None:
                self._file.close()
            self._stream.close()
        except BaseException:
            self._give_up()
            raise
        self._folder.move(self._temporary, self._name)

    def _give_up(self) -> None:
        # A full disk fails again here, which must not hide the first error.
        with contextlib.suppress(OSError, pa.ArrowException):
            # A writer that stays open warns when it is garbage-collected.
            if self._file is not None:
                self._file.close()
            self._stream.close()
        self._folder.delete(self._temporary)


class _ParquetWriter:
    """A writer of Parquet that gathers small tables to row groups of a usual size."""

    def __init__(self, stream: pa.NativeFile, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(stream, schema)
        self._waiting: list[pa.Table] = []
        self._num_bytes = 0

    def write_table(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._num_bytes += table.nbytes
        if self._num_bytes >= _ROW_GROUP_BYTES:
            self._write_waiting()

    def _write_waiting(self) -> None:
        tables, self._waiting, self._num_bytes = self._waiting, [], 0
        if tables:
            self._writer.write_table(pa.concat_tables(tables))

    def close(self) -> None:
        try:
            self._write_waiting()
        finally:
            self._writer.close()


class _JsonLinesWriter:
    """A JSON Lines writer with the methods of pyarrow's writers."""

    def __init__(self, stream: pa.NativeFile, _schema: pa.Schema) -> None:
        self._stream = stream

    def write_table(self, table: pa.Table) -> None:
        lines = [
            # `default=str` for dates and decimals of Parquet.
            json.dumps(row, ensure_ascii=False, default=str) + "\n"
            for row in table.to_pylist()
        ]
        self._stream.write("".join(lines).encode())

    def close(self) -> None:
        return


_FORMATS: dict[str, Callable[[pa.NativeFile, pa.Schema], Any]] = {
    "csv": pacsv.CSVWriter,
    "parquet": _ParquetWriter,
    "jsonl": _JsonLinesWriter,
}


def _find_format(path: str) -> Callable[[pa.NativeFile, pa.Schema], Any]:
    suffix = path.rpartition("/")[2].rpartition(".")[2].lower()
    if suffix not in _FORMATS:
        raise UsageError(
            f"{path}: no format is known for that name", f"End it in .{', .'.join(_FORMATS)}."
        )
    return _FORMATS[suffix]


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Casts a table to the columns of the first one; a column that it lacks becomes null."""
    columns = [
        _cast(table.column(field.name), field)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"column {field.name!r} holds {field.type} in the first rows, and {column.type} that "
            f"cannot be written as such later: {first_line(error)}",
            "Give the column one type in all files.",
        ) from error
