"""What predicts tables of raw rows, whatever the answers: a table in, a table with answers out.

Used in the driver and in processes of a pool of Ray Data.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.bundle import Bundle
from raydc.data import list_values, values
from raydc.data.layout import Layout
from raydc.errors import DataError

# Columns of a table that stands for an error; see `TablePredictor.__call__`.
_ERROR, _HINT = "__error", "__hint"


class TablePredictor(ABC):
    """Adds answers to tables of raw rows.

    Args:
        loaded: Bundle that answers.
        layout: Files of the source, for messages.
    """

    def __init__(self, loaded: Bundle, layout: Layout) -> None:
        self.bundle = loaded
        self.layout = layout

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the columns that are added, in their order."""

    @abstractmethod
    def answer(self, table: pa.Table, shown: pa.Table) -> pa.Table:
        """Adds the columns.

        Args:
            table: Raw rows.
            shown: Columns of the same rows that the output has.

        Raises:
            DataError: A row cannot be used; its message begins with `rows[NUMBER]`.
        """

    def check(self, table: pa.Table) -> None:
        """Refuses rows for which `answer` would raise, as far as that is found without computing.

        Args:
            table: Raw rows.

        Raises:
            DataError: A row cannot be used; the message names its place.
        """
        del table

    def _named(self, error: DataError, table: pa.Table) -> DataError:
        return _with_place(error, self.layout, values.row_ids(table))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Answers a table; an error travels as a table, which `raise_error` knows."""
        # Ray Data passes on only the text of an exception.
        try:
            return self._answer(table)
        except DataError as error:
            return pa.table({_ERROR: [error.message], _HINT: pa.array([error.hint], pa.string())})

    def _answer(self, table: pa.Table) -> pa.Table:
        names = [name for name in table.column_names if not values.is_internal(name)]
        if taken := set(self.names()) & set(names):
            raise DataError(
                f"{self.layout.files[0].path} has a column {min(taken)!r} already", "Rename it."
            )
        result = table.select(
            [name for name in names if _is_printable(table.schema.field(name).type)]
        )
        try:
            return self.answer(table, list_values.as_json_texts(result))
        except DataError as error:
            raise self._named(error, table) from error


def raise_error(table: pa.Table) -> None:
    """Raises the error that a table of `TablePredictor` stands for, if it stands for one.

    Raises:
        DataError: A row cannot be used; the message names its place.
    """
    if _ERROR in table.column_names:
        error = table.to_pylist()[0]
        raise DataError(error[_ERROR], error[_HINT])


def _is_printable(column_type: pa.DataType) -> bool:
    """Whether a column can be written to any format of output."""
    return values.kind_of(column_type) != "image" and not pa.types.is_binary(column_type)


def _with_place(error: DataError, layout: Layout, row_ids: npt.NDArray[np.int64]) -> DataError:
    """Replaces the position of a row in the batch by its place in the sources."""
    match = re.match(r"rows\[(\d+)\](?:\.| has )", error.message)
    if match is None:
        return DataError(error.message, error.hint)
    place = layout.describe_row(int(row_ids[int(match[1])]))
    return DataError(f"{place}: {error.message[match.end() :]}", error.hint)
