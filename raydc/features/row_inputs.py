"""Raw columns of a block or of a request to the inputs of its rows. Pure.

Shape suffixes: B rows, F inputs of all columns that are joined into one field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError
from raydc.features.category_columns import CategoryCodes
from raydc.features.columns import Column
from raydc.features.conversation_column import Conversations
from raydc.features.image_column import Image
from raydc.features.list_column import NumberList
from raydc.features.raw_values import Values
from raydc.features.record import Array, Inputs, Ragged, Record
from raydc.features.series_window import SeriesWindow
from raydc.features.signature import Signature
from raydc.features.table_column import TableColumn
from raydc.features.table_layout import COLUMNS, TableLayout
from raydc.features.text_column import Text
from raydc.features.token_block import TokenBlock


def is_in_table(column: Column) -> bool:
    """Whether the inputs of a column are joined with those of other columns into one array."""
    return isinstance(column, TableColumn) and not isinstance(column, CategoryCodes)


def layout_of(columns: Mapping[str, Column]) -> TableLayout:
    """Places of the inputs of all columns of numbers and categories.

    Args:
        columns: Fitted columns by name, in the order of the inputs.
    """
    table = table_columns(columns).values()
    return TableLayout(tuple(width for column in table for width in column.widths))


def table_columns(columns: Mapping[str, Column]) -> dict[str, TableColumn]:
    """Columns whose inputs are joined to one array, by name.

    Args:
        columns: Fitted columns by name, in the order of the inputs.
    """
    return {
        name: column
        for name, column in columns.items()
        if isinstance(column, TableColumn) and is_in_table(column)
    }


def make_inputs(
    columns: Mapping[str, Column],
    raw: Mapping[str, Values],
    missing: frozenset[str],
    max_pixels: int | None,
    is_one_array: bool,
) -> Inputs:
    """Turns raw columns into what a network takes.

    Args:
        columns: Fitted columns by name, in the order of the inputs.
        raw: B values of every column, by name.
        missing: Strings that mean "missing".
        max_pixels: Maximum number of pixels to decode in each column of images; None means any.
        is_one_array: Whether a row is one array rather than a record.

    Raises:
        DataError: A value does not fit; the message names it as `rows[i].column`.
    """
    table: list[Array] = []
    fields: dict[str, Array | Ragged] = {}
    for name, column in columns.items():
        if isinstance(column, Image):
            fields[name] = column.apply(raw[name], name, max_pixels)
        elif isinstance(column, Text) and column.second is not None:
            pair = (name, column.second)
            fields[name] = column.apply_pairs(raw[name], raw[column.second], pair, missing)
        elif isinstance(column, Text) and column.first is not None:
            # It stands in the list of the other one.
            continue
        elif isinstance(column, Text | TokenBlock | Conversations | NumberList | SeriesWindow):
            fields[name] = column.apply(raw[name], name, missing)
        elif isinstance(column, CategoryCodes):
            fields[name] = column.codes(raw[name], name, missing)
        else:
            table.append(column.apply(raw[name], name, missing))
    joined: dict[str, Any] = {COLUMNS: np.concatenate(table, axis=1)} if table else {}
    joined |= fields
    return next(iter(joined.values())) if is_one_array else Record(joined)


def make_stored(
    columns: Mapping[str, Column], raw: Mapping[str, Values], missing: frozenset[str]
) -> Record:
    """Turns raw columns into what is stored: for categories codes, not one input for each.

    Args:
        columns: Fitted columns by name, in the order of the inputs.
        raw: B values of every column, by name.
        missing: Strings that mean "missing".
    """
    layout = layout_of(columns)
    table = table_columns(columns)
    others = {name: column for name, column in columns.items() if name not in table}
    inputs = make_inputs(others, raw, missing, None, is_one_array=False) if others else Record({})
    parts = [
        part for name, column in table.items() for part in column.stored(raw[name], name, missing)
    ]
    return Record({**layout.store(parts), **inputs.fields}, layout)  # type: ignore[union-attr]


def stored_row_bytes(
    signature: Signature, layout: TableLayout, file_bytes: Mapping[str, int]
) -> int:
    """Bytes of a stored row; a list counts with its greatest length.

    Args:
        signature: Signature of the rows as the network takes them.
        layout: Which inputs are stored as numbers and which as codes.
        file_bytes: Mean bytes of each image that is stored as a file, by column.
    """
    if signature.kind == "image":
        return sum(file_bytes.values()) or signature.row_bytes
    table = 4 * layout.num_inputs
    if layout.saves_space:
        table = 4 * len(layout.number_positions)
        table += len(layout.code_starts) * np.dtype(layout.code_type).itemsize
    others = {name: one.row_bytes for name, one in signature.fields.items() if name != COLUMNS}
    return table + sum({**others, **file_bytes}.values())


def scale_numbers(
    numbers_BF: npt.NDArray[np.float64],
    shift_F: npt.NDArray[np.float64],
    scale_F: npt.NDArray[np.float64],
    names: Sequence[str],
) -> npt.NDArray[np.float32]:
    """Computes (number - shift) / scale.

    Args:
        numbers_BF: Numbers of each row, none of them missing.
        shift_F: Subtracted from the numbers of each column.
        scale_F: Divisor of each column, applied after the shift; not 0.
        names: Names of the F columns, for messages.

    Raises:
        DataError: float32 cannot hold a result; the message names its row and column.
    """
    with np.errstate(over="ignore"):
        scaled_BF: npt.NDArray[np.float32] = ((numbers_BF - shift_F) / scale_F).astype(np.float32)
    if np.isinf(scaled_BF).any():
        row, position = np.argwhere(np.isinf(scaled_BF))[0]
        number = float(numbers_BF[row, position])
        fault = "too large for float32" if np.isfinite(number) else "not a finite number"
        raise DataError(f"rows[{row}].{names[position]}: {number} is {fault}")
    return scaled_BF
