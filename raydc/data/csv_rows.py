"""Rows of CSV files with faults, in their places among the others. Runs in tasks of Ray Data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydc.data import row_faults, values
from raydc.errors import DataError

UTF8 = "UTF-8"


class RaggedRows:
    """Puts rows with a wrong number of cells, which Arrow skips, back between the others.

    The id of a row is its place in the file, so that skipped rows must leave gaps in the ids.

    Args:
        has_header: Whether Arrow counts the header as row 1.
    """

    def __init__(self, has_header: bool) -> None:
        self._first = 2 if has_header else 1
        self._next = 0
        self._num_put_back = 0

    def add_ids(self, table: pa.Table, ragged: Sequence[Any]) -> pa.Table:
        """Adds the column of row ids to the next rows, and the skipped rows among them.

        Args:
            table: The next rows that Arrow yields; all columns are text or bytes.
            ragged: All rows that Arrow has skipped so far, even after `table`: it reads ahead.
        """
        # A file that is read again for a longer block reports its skipped rows again.
        skipped = {row.number - self._first: row for row in ragged}
        ahead = np.arange(self._next, self._next + table.num_rows + len(skipped), dtype=np.int64)
        places = ahead[~np.isin(ahead, list(skipped))][: table.num_rows]
        end = int(places[-1]) + 1
        between = [place for place in sorted(skipped) if self._next <= place < end]
        self._next = end
        if not ragged:
            return table.append_column(values.ROW_ID, pa.array(places))
        whole = table.append_column(values.ROW_ID, pa.array(places)).append_column(
            values.FAULT, pa.nulls(table.num_rows, pa.string())
        )
        if not between:
            return whole
        both = pa.concat_tables([whole, _faulty(whole.schema, between, skipped)])
        return both.sort_by(values.ROW_ID)

    def rest(self, names: Sequence[str], ragged: Sequence[Any]) -> pa.Table:
        """The skipped rows after the last one that could be read.

        Args:
            names: Columns of the file, in the order of its cells.
            ragged: All rows that Arrow has skipped in the file.
        """
        skipped = {row.number - self._first: row for row in ragged}
        schema = pa.schema(
            [
                *((name, pa.string()) for name in names),
                (values.ROW_ID, pa.int64()),
                (values.FAULT, pa.string()),
            ]
        )
        return _faulty(schema, [place for place in sorted(skipped) if place >= self._next], skipped)


def _faulty(schema: pa.Schema, places: Sequence[int], skipped: dict[int, Any]) -> pa.Table:
    """Rows without cells, each with its fault."""
    faults = [
        row_faults.cell("", skipped[place].text, ragged_reason(skipped[place])) for place in places
    ]
    columns = {
        field.name: pa.nulls(len(places), field.type)
        for field in schema
        if not values.is_internal(field.name)
    }
    ids = pa.array(places, pa.int64())
    return pa.table({**columns, values.ROW_ID: ids, values.FAULT: pa.array(faults, pa.string())})


def ragged_reason(row: Any) -> str:
    """What is wrong with a row that Arrow's reader refused."""
    reason = f"{row.actual_columns} cells instead of {row.expected_columns}"
    # A quote that is never closed takes the rows after it along, and they must not go unseen.
    num_lines = len(row.text.strip().splitlines())
    return reason if num_lines < 2 else f"{reason}, over {num_lines} lines"


def not_text(encoding: str) -> str:
    """The reason why a cell whose bytes are not text of an encoding cannot be used."""
    return f"is not {encoding} text"


def as_text(
    path: str, table: pa.Table, num_before: int, keeps_faulty: bool, encoding: str = UTF8
) -> pa.Table:
    """Turns cells of bytes into text.

    Args:
        path: Path of the file, for messages.
        table: Rows with cells of bytes.
        num_before: Number of rows before them in the file; used in the error only.
        keeps_faulty: Whether a row with a cell that is not text gets a fault instead of an error.
        encoding: Encoding that the file was read with.

    Raises:
        DataError: A cell is not text of the encoding, and `keeps_faulty` is false.
    """
    for position, name in enumerate(table.column_names):
        column = table.column(name)
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            continue
        try:
            text = column.cast(pa.string())
        except pa.ArrowInvalid:
            cells, wrong = _decode_each(column.to_pylist())
            row = min(wrong)
            windows = wrong[row].decode("cp1252", "replace")
            if not keeps_faulty:
                hint = "Set data.csv.encoding: latin-1, which has a character for each byte."
                if encoding == UTF8:
                    hint = f"If it should read {windows!r}, set data.csv.encoding: cp1252."
                raise DataError(
                    f"{path}: row {num_before + row + 1}: {name}: '{escaped(wrong[row])}' "
                    f"{not_text(encoding)}",
                    hint,
                ) from None
            text = pa.chunked_array([pa.array(cells, pa.string())])
            table = _add_faults(table, name, wrong, not_text(encoding))
        table = table.set_column(position, name, text)
    return table


def escaped(cell: bytes) -> str:
    """Shows bytes that are not text, such as `M\\xfcnchen`."""
    return repr(cell[:50])[2:-1]


def _decode_each(cells: Sequence[bytes | None]) -> tuple[list[str | None], dict[int, bytes]]:
    """Text of each cell, and the cells that are not text by their position."""
    texts: list[str | None] = []
    wrong = {}
    for row, cell in enumerate(cells):
        try:
            texts.append(None if cell is None else cell.decode())
        except UnicodeDecodeError:
            texts.append(None)
            wrong[row] = cell or b""
    return texts, wrong


def valid_texts(path: str, table: pa.Table, num_before: int, keeps_faulty: bool) -> pa.Table:
    """Checks the texts of a Parquet file, whose type promises UTF-8 and enforces nothing.

    Args:
        path: Path of the file, for messages.
        table: Rows of the file.
        num_before: Rows of the file before them.
        keeps_faulty: Whether a row with a cell that is not text gets a fault instead of an error.

    Raises:
        DataError: A cell is not UTF-8 text, and `keeps_faulty` is false.
    """
    for position, (name, kind) in enumerate(
        zip(table.column_names, table.schema.types, strict=True)
    ):
        if pa.types.is_string(kind):
            bytes_type = pa.binary()
        elif pa.types.is_large_string(kind):
            bytes_type = pa.large_binary()
        else:
            continue
        try:
            table.column(name).validate(full=True)
        except pa.ArrowInvalid:
            cells = [chunk.view(bytes_type) for chunk in table.column(name).chunks]
            part = pa.table({name: pa.chunked_array(cells, bytes_type)})
            try:
                part = as_text(path, part, num_before, keeps_faulty)
            except DataError as error:
                raise DataError(error.message, "Write the column again, as UTF-8.") from error
            table = table.set_column(position, name, part.column(name))
            if values.FAULT in part.column_names:
                faults = part.column(values.FAULT)
                if values.FAULT in table.column_names:
                    faults = pc.coalesce(table.column(values.FAULT), faults)
                    table = table.drop_columns([values.FAULT])
                table = table.append_column(values.FAULT, faults)
    return table


def _add_faults(table: pa.Table, name: str, wrong: dict[int, bytes], reason: str) -> pa.Table:
    faults = table.column(values.FAULT).to_pylist() if values.FAULT in table.column_names else []
    faults = faults or [None] * table.num_rows
    for row, cell in wrong.items():
        faults[row] = faults[row] or row_faults.cell(name, escaped(cell), reason)
    kept = table.drop_columns([values.FAULT]) if values.FAULT in table.column_names else table
    return kept.append_column(values.FAULT, pa.array(faults, pa.string()))
