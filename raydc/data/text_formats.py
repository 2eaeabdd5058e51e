"""JSON Lines as tables whose cells are all text. Runs in tasks of Ray Data.

No type is guessed here, as in `raydc.data.csv_format`.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from raydc.data import file_kind, list_values, row_faults, values
from raydc.data.layout import SourceFile
from raydc.data.nested_cells import (
    NestedCells,
    OtherCell,
    Pairs,
    other_column,
    refuse_half_characters,
)
from raydc.errors import DataError, shown
from raydc.spec.label_text import text_of

ROWS_PER_TABLE = 16_384
_ONE_OBJECT = "Each line must be one JSON object."
_NO_NESTED = NestedCells()
# A cell of JSON Lines before it has a column.
Cell = str | list[Any] | OtherCell | None


def read_json_lines(
    filesystem: pafs.FileSystem,
    file: SourceFile,
    keeps_faulty: bool = False,
    nested: NestedCells = _NO_NESTED,
) -> Iterator[pa.Table]:
    """Yields the rows of a JSON Lines file in their order, every cell as text.

    The column `values.ROW_ID` holds the number of each line, from 0. Blank lines are skipped and
    leave gaps in it.

    Args:
        filesystem: Filesystem that holds the file.
        file: A file of the source, compressed or not; messages name it.
        keeps_faulty: Whether a line that is not a row is yielded without cells, with its fault in
            `values.FAULT`, instead of an error.
        nested: Which cells may be lists or objects of any kind.

    Raises:
        DataError: A line is not a JSON object of plain values, and `keeps_faulty` is false.
    """
    with filesystem.open_input_stream(file.path) as stream, io.BufferedReader(stream) as lines:
        head = lines.peek(file_kind.HEAD_BYTES)[: file_kind.HEAD_BYTES]
        file_kind.refuse_other_kind(file.path, head, "jsonl")
        numbered = enumerate(lines)
        while chunk := list(itertools.islice(numbered, ROWS_PER_TABLE)):
            faults: dict[int, str] = {}
            rows = [
                (
                    number,
                    _row_or_fault(
                        file.path, number, line, faults if keeps_faulty else None, nested
                    ),
                )
                for number, line in chunk
                if line.strip()
            ]
            names = dict.fromkeys(name for _, row in rows for name in row)
            values.refuse_internal(file.path, names)
            kept = faults if keeps_faulty else None
            columns = {name: _column_of(file.path, name, rows, kept) for name in names}
            if keeps_faulty:
                told = [faults.get(number) for number, _ in rows]
                columns[values.FAULT] = pa.array(told, pa.string())
            # The row id must stay the number of the line, which messages show to the user.
            yield pa.table(
                {values.ROW_ID: pa.array([number for number, _ in rows], pa.int64()), **columns}
            )


def _column_of(
    path: str,
    name: str,
    rows: Sequence[tuple[int, Mapping[str, Any]]],
    faults: dict[int, str] | None,
) -> pa.Array:
    """A column; without `faults`, which gets those of lines by their number, the first raises."""

    def place_of(place: int) -> str:
        return f"{path}: line {rows[place][0] + 1}: {name}"

    cells = [row.get(name) for _, row in rows]
    if faults is not None and not any(isinstance(cell, OtherCell) for cell in cells):
        shapes = Counter(shape for shape in map(_shape_of, cells) if shape is not None)
        # The first of those that are equally frequent.
        usual = max(shapes, key=shapes.__getitem__, default=None)
        for place, cell in enumerate(cells) if len(shapes) > 1 else ():
            if (shape := _shape_of(cell)) not in (None, usual):
                reason = f"is {shape}, but most rows have {usual}"
                faults.setdefault(rows[place][0], row_faults.cell(name, cell, reason))
                cells[place] = None
    return cells_of(cells, place_of)


def _shape_of(cell: Cell) -> str | None:
    """What a cell holds, for messages; None for an empty one, which goes with all others."""
    if cell is None or cell == []:
        return None
    if not isinstance(cell, list):
        return "a number or text"
    width = len(cell[0]) if isinstance(cell[0], list) else 1
    return f"lists with {width} numbers an item"


def _row_or_fault(
    path: str,
    number: int,
    line: bytes,
    faults: dict[int, str] | None,
    nested: NestedCells,
) -> dict[str, Cell]:
    try:
        return json_row(path, number, line, nested)
    except DataError as error:
        if faults is None:
            raise
        text = line.decode(errors="backslashreplace").strip()
        reason = error.message.removeprefix(f"{path}: line {number + 1}: ")
        faults[number] = row_faults.cell("", text, reason)
        return {}


def cells_of(cells: Sequence[Cell], place_of: Callable[[int], str]) -> pa.Array:
    """A column of cells of `json_row`.

    Args:
        cells: Cells of one column.
        place_of: Names a cell by its position, for messages.

    Raises:
        DataError: Some are lists and others not, or the items of the lists differ.
    """
    if any(isinstance(cell, OtherCell) for cell in cells):
        return other_column(cells)
    shapes: dict[str, int] = {}
    for row, cell in enumerate(cells):
        if (shape := _shape_of(cell)) is not None:
            shapes.setdefault(shape, row)
    if len(shapes) > 1:
        (one, first), (other, second) = list(shapes.items())[:2]
        raise DataError(
            f"{place_of(second)}: it holds {other}, but {one} at {place_of(first)}",
            "A column holds values of one kind.",
        )
    if any(isinstance(cell, list) for cell in cells):
        return list_values.of_cells(cells)
    return pa.array(cells, pa.string())


def json_row(
    path: str, number: int, line: bytes, nested: NestedCells = _NO_NESTED
) -> dict[str, Cell]:
    """Parses one line of JSON Lines to cells of text, and of lists of numbers.

    Args:
        path: Path of the file, for messages.
        number: Number of the line, from 0.
        line: The line as bytes; a line break at its end is ignored.
        nested: Which values may be lists or objects of any kind, and become their JSON text.

    Returns:
        Text or list by key. A number becomes the text that a CSV file would hold for it.

    Raises:
        DataError: It is not a JSON object of plain values.
    """
    # Editors count lines from 1.
    place = f"{path}: line {number + 1}"
    try:
        row = json.loads(line, object_pairs_hook=Pairs)
        if not isinstance(row, Pairs):
            raise DataError(f"{place}: {shown(row)} is not an object", _ONE_OBJECT)
        for name, _ in row:
            refuse_half_characters(place, name)
        cells = {
            name: nested.read(place, name, value)
            if isinstance(value, list)
            else _json_text(place, name, value)
            for name, value in row
        }
    except (ValueError, RecursionError) as error:
        is_array = number == 0 and line.lstrip().startswith(b"[")
        hint = "The file is one JSON array; write one object a line." if is_array else _ONE_OBJECT
        raise DataError(f"{place}: not JSON: {error}", hint) from error
    # Python's own reader keeps the last of two values and says nothing.
    if len(cells) < len(row):
        names = [name for name, _ in row]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{place}: there are two values of {twice!r}", "Remove one of them.")
    return cells


def _json_text(place: str, name: str, value: Any) -> str | None:
    if isinstance(value, str):
        refuse_half_characters(f"{place}: {name}", value)
    if value is None or isinstance(value, str):
        return value
    is_missing = isinstance(value, float) and math.isnan(value)
    return None if is_missing else text_of(value)
