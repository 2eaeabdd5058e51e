"""Columns of lists of numbers, in the one form that all formats share. Pure; used in tasks.

`large_list<double>` is a list of any length, `large_list<fixed_size_list<double>[k]>` one whose
items are k numbers each, and `fixed_size_list<double>[k]` an array of k numbers in each row.

Shape suffixes: B rows, N items of all lists.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = pa.float64()
LISTS = pa.large_list(_NUMBER)
WRONG_ITEM = "has an item that is missing or not a finite number"
Mask = npt.NDArray[np.bool_]


def is_list(column_type: pa.DataType) -> bool:
    """Whether a type is one of the three of this module."""
    if pa.types.is_fixed_size_list(column_type):
        return bool(column_type.value_type == _NUMBER)
    if not pa.types.is_large_list(column_type):
        return False
    inner = column_type.value_type
    return bool(inner == _NUMBER or (pa.types.is_fixed_size_list(inner) and is_list(inner)))


def simplify(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Brings a column of lists to one of the three types; lists of others stay as they are."""
    kind = column.type
    if not _is_any_list(kind):
        return column
    if _is_number(kind.value_type):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else None
        # Not every whole number above 2**53 is a float, and the nearest one is good enough.
        return column.cast(LISTS if size is None else pa.list_(_NUMBER, size), safe=False)
    if not (_is_any_list(kind.value_type) and _is_number(kind.value_type.value_type)):
        return column
    sizes = pc.unique(pc.list_value_length(pc.list_flatten(column))).drop_null().to_pylist()
    if len(sizes) > 1 or 0 in sizes:
        return column
    # Without any item the size is not known, and does not matter.
    inner = pa.list_(_NUMBER, sizes[0]) if sizes else _NUMBER
    return pa.chunked_array(
        [_with_items(chunk, inner) for chunk in column.chunks], pa.large_list(inner)
    )


def _with_items(chunk: pa.Array, inner: pa.DataType) -> pa.Array:
    items = chunk.flatten()
    if inner == _NUMBER:
        items = pa.nulls(0, inner)
    else:
        items = items.cast(pa.list_(_NUMBER), safe=False).cast(inner)
    return _with_own_items(chunk, items)


def _with_own_items(chunk: pa.Array, items: pa.Array) -> pa.Array:
    """Lists of the lengths of others, with items in the place of theirs."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(chunk), 0)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    absent = np.append(np.asarray(chunk.is_null()), False)
    return pa.LargeListArray.from_arrays(pa.array(offsets, mask=absent), items)


def _is_any_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        # If all lists are empty, nothing tells the type of their items.
        or pa.types.is_null(kind)
    )


def item_shape(column: pa.Array) -> str | None:
    """What the rows of a column hold, for messages; None if no row has an item."""
    if not len(column.flatten()):
        return None
    if pa.types.is_fixed_size_list(column.type):
        return f"arrays of {column.type.list_size} numbers"
    if pa.types.is_fixed_size_list(column.type.value_type):
        return f"lists of {column.type.value_type.list_size} numbers each"
    return "lists of numbers"


def item_width(column_type: pa.DataType) -> int | None:
    """Numbers of an item; None if an item is one number itself."""
    inner = column_type.value_type
    if pa.types.is_fixed_size_list(column_type):
        return int(column_type.list_size)
    return int(inner.list_size) if pa.types.is_fixed_size_list(inner) else None


def wrong_items(column: pa.Array) -> Mask:
    """Marks the rows with an item that is missing or not finite, bool [B]."""
    found = np.zeros(len(column), dtype=bool)
    items, rows = column.flatten(), np.asarray(pc.list_parent_indices(column))
    if pa.types.is_fixed_size_list(items.type):
        found[rows[np.asarray(items.is_null())]] = True
        rows = rows[np.asarray(pc.list_parent_indices(items))]
        items = items.flatten()
    numbers_N = np.asarray(items.to_numpy(zero_copy_only=False), dtype=np.float64)
    found[rows[~np.isfinite(numbers_N)]] = True
    return found


def to_arrays(column: pa.Array) -> list[npt.NDArray[np.float64] | None]:
    """Numbers of each row, [length], [length, k] or [k]; None where there is no list."""
    items = column.flatten()
    is_nested = pa.types.is_fixed_size_list(items.type)
    flat = items.flatten() if is_nested else items
    numbers = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float64)
    numbers = numbers.reshape(-1, items.type.list_size) if is_nested else numbers
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
    lists = np.split(numbers, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return [
        part if is_there else None
        for part, is_there in zip(lists, column.is_valid().to_pylist(), strict=True)
    ]


def of_cells(cells: Sequence[Any]) -> pa.Array:
    """A column of lists that `fault_of` has passed; None for a missing one."""
    items = [item for cell in cells if cell is not None for item in cell]
    width = len(items[0]) if items and isinstance(items[0], list) else None
    kind = LISTS if width is None else pa.large_list(pa.list_(_NUMBER, width))
    # Arrow refuses whole numbers above 2**53 in a column of floats.
    return pa.array([None if cell is None else _as_floats(cell) for cell in cells], kind)


def _as_floats(cell: list[Any]) -> list[Any]:
    return [_as_floats(item) if isinstance(item, list) else float(item) for item in cell]


def with_one_type(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Gives each column of lists one type: a block without any item does not know that of others.

    Args:
        tables: Tables with the same columns. A column without any value gets the type that it has
            in other tables, also if that is no list.
    """
    made = list(tables)
    for name in made[0].column_names if len(made) > 1 else ():
        columns = [table.column(name) for table in made]
        if len({column.type for column in columns}) > 1 and (kind := _type_for(columns)):
            made = [
                table.set_column(table.column_names.index(name), name, _of_type(column, kind))
                for table, column in zip(made, columns, strict=True)
            ]
    return made


def _type_for(columns: Sequence[pa.ChunkedArray]) -> pa.DataType | None:
    """The type of the columns that have items, if empty lists fit it; None without any list."""
    lists = [column for column in columns if is_list(column.type)]
    known = [column for column in columns if not _is_typeless(column)]
    if not (known or lists):
        return None
    kind = (known or lists)[0].type
    # An empty list is no array of k numbers, which is found where the row has a place to be named.
    empty = any(_is_typeless(column) and column.null_count < len(column) for column in lists)
    return LISTS if empty and pa.types.is_fixed_size_list(kind) else kind


def _is_typeless(column: pa.ChunkedArray) -> bool:
    """Whether nothing in a column tells the type of its values."""
    if column.null_count == len(column):
        return True
    return is_list(column.type) and not any(len(chunk.flatten()) for chunk in column.chunks)


def _of_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), kind)])
    if kind == LISTS and pa.types.is_fixed_size_list(column.type):
        return column.cast(kind)
    if not (pa.types.is_large_list(kind) and _is_typeless(column)):
        return column
    nothing = pa.nulls(0, kind.value_type)
    return pa.chunked_array([_with_own_items(chunk, nothing) for chunk in column.chunks], kind)


def series_block(numbers_BLK: npt.NDArray[Any]) -> pa.Array:
    """Lists of one length, [B, L, K], as a column."""
    num_rows, length, width = numbers_BLK.shape
    flat = pa.array(np.ascontiguousarray(numbers_BLK, dtype=np.float64).ravel())
    offsets = np.arange(num_rows + 1, dtype=np.int64) * length
    items = pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.LargeListArray.from_arrays(pa.array(offsets), items)


def as_json_texts(table: pa.Table) -> pa.Table:
    """Writes lists and objects as JSON texts, which every format of a table can hold."""
    for position, (name, kind) in enumerate(
        zip(table.column_names, table.schema.types, strict=True)
    ):
        if pa.types.is_nested(kind):
            cells = table.column(name).to_pylist()
            # Columns that are no inputs may hold dates, decimals and other values that JSON lacks.
            texts = [
                None if cell is None else json.dumps(cell, default=str, ensure_ascii=False)
                for cell in cells
            ]
            table = table.set_column(position, name, pa.array(texts, pa.string()))
    return table


def fault_of(cell: list[Any]) -> str | None:
    """What is wrong with a list of JSON; None if it is a list of numbers, or of as many each."""
    if all(isinstance(item, list) and item for item in cell):
        widths = {len(item) for item in cell}
        if len(widths) > 1:
            return f"its items have {min(widths)} and {max(widths)} numbers"
        numbers = [number for item in cell for number in item]
    else:
        numbers = cell
    for number in numbers:
        if type(number) not in (int, float) or not math.isfinite(_as_float(number)):
            return f"{number!r:.40} is not a finite number"
    return None


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def of_texts(column: pa.ChunkedArray) -> tuple[pa.Array, dict[int, str]]:
    """Reads texts such as `[1, 2.5]` as lists.

    Returns:
        The column, and what is wrong with a cell by its position.
    """
    parsed = [(None, None) if text is None else _parse(text) for text in column.to_pylist()]
    widths = Counter(_width_of(cell) for cell, fault in parsed if cell and fault is None)
    # The first of those that are equally frequent.
    usual = max(widths, key=widths.__getitem__, default=None)
    cells: list[Any] = []
    faults: dict[int, str] = {}
    for row, (cell, fault) in enumerate(parsed):
        if fault is None and cell and _width_of(cell) != usual:
            fault = "its items are not like those of most rows"
        if fault is not None:
            cell, faults[row] = None, fault
        cells.append(cell)
    return of_cells(cells), faults


def _width_of(cell: list[Any]) -> int | None:
    return len(cell[0]) if isinstance(cell[0], list) else None


def _parse(text: str) -> tuple[list[Any] | None, str | None]:
    try:
        cell = json.loads(text)
    except (ValueError, RecursionError):
        cell = None
    if not isinstance(cell, list):
        return None, "is not a list of numbers such as [1, 2.5]"
    return cell, fault_of(cell)
