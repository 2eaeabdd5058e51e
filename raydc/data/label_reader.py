"""Targets of several labels: from the cells of a table to one text for each row.

Runs in tasks of Ray Data, where tables are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from raydc.data import row_faults, values
from raydc.data.label_sets import to_text
from raydc.errors import DataError, did_you_mean, shown
from raydc.spec.data import Data
from raydc.spec.label_text import text_of

NOT_A_MARK = "is neither 0 nor 1"
NOT_A_LABEL = "holds a label that is neither text nor a number"
_MARKS = {"0": False, "1": True, "false": False, "true": True}


class LabelReader:
    """Reads the target of a multilabel task out of the columns of one table.

    Args:
        data: Section `data` of the spec.
        place_of: Returns file and number of a row of the table, for messages.
        faults: Gets the fault of each row that has one; None raises the first one.
    """

    def __init__(
        self, data: Data, place_of: Callable[[int], str], faults: dict[int, str] | None
    ) -> None:
        self._data = data
        self._place_of = place_of
        self._faults = faults

    def read(self, columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
        """Replaces the columns of the target by one column of texts.

        Args:
            columns: Columns of the table by name.

        Raises:
            DataError: A cell does not hold labels, and faults are not kept; or a column has the
                name of the target although there are `label_columns`.
        """
        data, marks = self._data, self._data.label_columns
        if marks is None:
            if data.target not in columns:
                return columns
            texts = self._of_cells(columns[data.target])
            return {**columns, data.target: _chunked(texts)}
        if data.target in columns:
            raise DataError(
                f"data.target: the sources have a column {data.target!r} beside data.label_columns",
                "Set data.target to a name that no column has.",
            )
        absent = next((name for name in marks if name not in columns), None)
        if absent is not None:
            there = f"There are {', '.join(columns)}."
            hint = f"{did_you_mean(absent, columns, starts_sentence=True)} {there}".lstrip()
            raise DataError(f"data.label_columns: there is no column {absent!r}", hint)
        num_rows = len(next(iter(columns.values())))
        table = pa.table(columns)
        found = [self._marks(name, values.column_of(table, name)) for name in marks]
        texts = []
        for row in range(num_rows):
            cells = [column[row] for column in found]
            known = [name for name, cell in zip(marks, cells, strict=True) if cell]
            texts.append(None if None in cells else to_text(known))
        kept = {name: column for name, column in columns.items() if name not in marks}
        return {**kept, data.target: _chunked(texts)}

    def _of_cells(self, column: pa.ChunkedArray) -> list[str | None]:
        return [self._of_cell(row, cell) for row, cell in enumerate(column.to_pylist())]

    def _of_cell(self, row: int, cell: Any) -> str | None:
        if cell is None:
            return None
        listed = cell if isinstance(cell, list) else _split(text_of(cell), self._data)
        if any(isinstance(one, list | dict) or one is None for one in listed):
            self._refuse(row, self._data.target, cell, NOT_A_LABEL)
            return None
        return to_text(text_of(one) for one in listed)

    def _marks(self, name: str, column: pa.Array) -> list[bool | None]:
        marks: list[bool | None] = []
        for row, text in enumerate(values.to_texts(column)):
            mark = None if text is None else _MARKS.get(text.strip().lower())
            if text is not None and mark is None:
                self._refuse(row, name, text, NOT_A_MARK)
            marks.append(mark)
        return marks

    def _refuse(self, row: int, name: str, cell: Any, reason: str) -> None:
        if self._faults is None:
            hint = "data.clean.on_error: drop leaves such rows out."
            raise DataError(f"{self._place_of(row)}: {name}: {shown(cell)} {reason}", hint)
        self._faults.setdefault(row, row_faults.cell(name, cell, reason))


def _split(text: str, data: Data) -> list[Any]:
    # JSON Lines and tables that were written from lists hold lists as JSON.
    if text.startswith("[") and text.endswith("]"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return found
    return [label for part in text.split(data.label_delimiter) if (label := part.strip())]


def _chunked(texts: Sequence[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])
