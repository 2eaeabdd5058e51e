"""JSON Lines as tables whose cells are all text. Runs in tasks of Ray Data.

No type is guessed here, as in `raydc.data.csv_format`.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from raydc.data import values
from raydc.data.layout import SourceFile
from raydc.errors import DataError, shown
from raydc.spec.label_text import text_of

ROWS_PER_TABLE = 16_384
_ONE_OBJECT = "Each line must be one JSON object."


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
            values.refuse_internal(file.path, names)
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
        row = json.loads(line, object_pairs_hook=_as_pairs)
    except ValueError as error:
        is_array = number == 0 and line.lstrip().startswith(b"[")
        hint = "The file is one JSON array; write one object a line." if is_array else _ONE_OBJECT
        raise DataError(f"{place}: not JSON: {error}", hint) from error
    if not isinstance(row, _Pairs):
        raise DataError(f"{place}: {shown(row)} is not an object", _ONE_OBJECT)
    cells = {name: _json_text(place, name, value) for name, value in row}
    # Python's own reader keeps the last of two values and says nothing.
    if len(cells) < len(row):
        names = [name for name, _ in row]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{place}: there are two values of {twice!r}", "Remove one of them.")
    return cells


class _Pairs(list[tuple[str, Any]]):
    """Keys and values of a JSON object, in their order."""


def _as_pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _json_text(place: str, name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int | float):
        return text_of(value)
    kind = "an object" if isinstance(value, _Pairs) else "a list"
    raise DataError(
        f"{place}: {name}: {kind} is not a number, text or image", "Give an image as base64 text."
    )
