"""CSV and JSON Lines as tables whose cells are all text. Runs in tasks of Ray Data.

No type is guessed here: the type of a column is a statement about all its rows, and a reader sees
only some of them (see `raydc.data.column_scan`).
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
from pyarrow import fs as pafs

from raydc.data import values
from raydc.data.layout import SourceFile, plain_suffix
from raydc.errors import DataError, shown
from raydc.spec.label_text import text_of

ROWS_PER_TABLE = 16_384
# Arrow parses a block at a time, so that this bounds the memory of a reader.
_CSV_BLOCK_BYTES = 4 * 1024 * 1024


def read_csv_header(filesystem: pafs.FileSystem, file: SourceFile) -> list[str]:
    """Names of the columns of a CSV file.

    Raises:
        DataError: The file is empty, no UTF-8 text, or names a column twice.
    """
    with (
        filesystem.open_input_stream(file.path) as stream,
        # utf-8-sig drops the byte order mark that Excel writes.
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
    ):
        try:
            names = next(csv.reader(text, delimiter=_delimiter(file)), [])
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file.path}: not UTF-8 text: {error.reason}", "Convert it to UTF-8."
            ) from error
    if not names:
        raise DataError(
            f"{file.path}: the file is empty", "The first line of a CSV file names its columns."
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file.path}: the header holds {twice!r} twice")
    return names


def read_csv(
    filesystem: pafs.FileSystem,
    file: SourceFile,
    names: Sequence[str],
    missing_values: Sequence[str],
) -> Iterator[pa.Table]:
    """Yields the rows of a CSV file in their order, every cell as text.

    Args:
        filesystem: The disk or object store of the source, which knows the path of the file.
        file: File to read; `.tsv` has tabs between its cells.
        names: Columns of its header, in the order of the cells.
        missing_values: Cells that become null.

    Raises:
        DataError: A row has a different number of cells than the header.
        pa.ArrowInvalid: The file is broken in another way.
    """
    ragged: list[Any] = []

    def on_invalid_row(row: Any) -> str:
        # Arrow's own message lacks the number of the row and its start.
        ragged.append(row)
        return "error"

    try:
        yield from _read_csv_batches(filesystem, file, names, missing_values, on_invalid_row)
    except pa.ArrowInvalid as error:
        if not ragged:
            raise
        row = ragged[0]
        # Arrow counts the header as row 1.
        message = f"{file.path}: row {row.number - 1}: {row.actual_columns} cells, but the header "
        hint = f"The row starts with {shown(row.text[:50])}; row 1 is the first after the header."
        raise DataError(f"{message}has {row.expected_columns}", hint) from error


def _read_csv_batches(
    filesystem: pafs.FileSystem,
    file: SourceFile,
    names: Sequence[str],
    missing_values: Sequence[str],
    on_invalid_row: Callable[[Any], str],
) -> Iterator[pa.Table]:
    reader = pacsv.open_csv(
        filesystem.open_input_stream(file.path),
        # Ray Data runs one task per CPU already; threads of Arrow would only contend with them.
        pacsv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False),
        pacsv.ParseOptions(
            delimiter=_delimiter(file),
            newlines_in_values=True,
            invalid_row_handler=on_invalid_row,
        ),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=list(missing_values),
            strings_can_be_null=True,
        ),
    )
    for batch in reader:
        yield pa.Table.from_batches([batch])


def _delimiter(file: SourceFile) -> str:
    return "\t" if plain_suffix(file.name) == ".tsv" else ","


def read_json_lines(filesystem: pafs.FileSystem, file: SourceFile) -> Iterator[pa.Table]:
    """Yields the rows of a JSON Lines file in their order, every cell as text.

    The column `values.ROW_ID` holds the number of each line, from 0. Blank lines are skipped and
    leave gaps in it.

    Raises:
        DataError: A line is no JSON object of plain values.
    """
    with filesystem.open_input_stream(file.path) as stream, io.BufferedReader(stream) as lines:
        numbered = enumerate(lines)
        while chunk := list(itertools.islice(numbered, ROWS_PER_TABLE)):
            rows = [
                (number, json_row(file.path, number, line))
                for number, line in chunk
                if line.strip()
            ]
            names = dict.fromkeys(name for _, row in rows for name in row)
            columns = {
                name: pa.array([row.get(name) for _, row in rows], pa.string()) for name in names
            }
            # The row id must stay the number of the line, which messages show to the user.
            yield pa.table(
                {values.ROW_ID: pa.array([number for number, _ in rows], pa.int64()), **columns}
            )


def json_row(path: str, number: int, line: bytes) -> dict[str, str | None]:
    """Parses one line of JSON Lines to cells of text.

    Args:
        path: Path of the file, for messages.
        number: Number of the line, from 0.
        line: The line as bytes; a line break at its end is ignored.

    Returns:
        Text by key. A number becomes the text that a CSV file would hold for it.

    Raises:
        DataError: It is no JSON object of plain values.
    """
    # Editors count lines from 1.
    place = f"{path}: line {number + 1}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{place}: not JSON: {error}", "Each line must be one JSON object."
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{place}: {shown(row)} is not an object", "Each line must be one JSON object."
        )
    return {name: _json_text(place, name, value) for name, value in row.items()}


def _json_text(place: str, name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int | float):
        return text_of(value)
    kind = "an object" if isinstance(value, dict) else "a list"
    raise DataError(
        f"{place}: {name}: {kind} is not a number, text or image", "Give an image as base64 text."
    )
