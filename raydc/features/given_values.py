"""Rows of a client: their columns have to be known, and have the values that training always had.

Pure; used in replicas and in processes that predict files. Preparation and golden rows do not pass
here: a held-out row may lack a value that each training row has.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, did_you_mean
from raydc.features.columns import Column
from raydc.features.date_column import DateParts, dates
from raydc.features.number_column import Numeric
from raydc.features.raw_values import Values, missing_of, numbers


def check_row(
    index: int, row: Mapping[str, Any], columns: Collection[str], known: frozenset[str]
) -> None:
    """Refuses a row of JSON values whose columns are not those of the model.

    Args:
        index: Position of the row in its request, for the message.
        row: The row, which may be of any type.
        columns: Names of the input columns.
        known: These and the names that a row may have beside them.

    Raises:
        DataError: The row is not an object, has an unknown column or no input.
    """
    if not isinstance(row, Mapping):
        raise DataError(
            f"rows[{index}]: {type(row).__name__} is not an object of column: value",
            _needs(columns),
        )
    # The first name in sorted order, so that the message does not depend on the order of a set.
    if unknown := row.keys() - known:
        name = min(unknown)
        raise DataError(
            f"rows[{index}].{name[:100]}: unknown column",
            did_you_mean(name, columns, starts_sentence=True) or _needs(columns),
        )
    if row.keys().isdisjoint(columns):
        raise DataError(f"rows[{index}] has none of the model's columns", _needs(columns))


def _needs(columns: Collection[str]) -> str:
    return f"The model takes {', '.join(columns)}."


def read_given(
    always_given: Collection[str],
    fitted: Mapping[str, Column],
    columns: Mapping[str, Values],
    missing_values: frozenset[str],
) -> dict[str, Values]:
    """Reads the columns that must have a value in each row.

    Args:
        always_given: Names of these columns; one that `columns` lacks is left out.
        fitted: Fitted columns by name.
        columns: B raw values of every column, by name.
        missing_values: Strings that mean "missing".

    Returns:
        The columns by name, those of numbers and dates as float64 [B].

    Raises:
        DataError: A value is missing (see `refuse_missing`), or is not a number or date.
    """
    given: dict[str, Values] = {}
    missing: dict[str, npt.NDArray[np.bool_]] = {}
    for name in always_given:
        if name not in columns:
            continue
        given[name] = values = columns[name]
        if isinstance(fitted[name], Numeric):
            given[name] = numbers_B = numbers(values, name, missing_values)
            missing[name] = np.isnan(numbers_B)
        elif isinstance(fitted[name], DateParts):
            given[name] = seconds_B = dates(values, name, missing_values)
            missing[name] = np.isnan(seconds_B)
        else:
            missing[name] = missing_of(values, missing_values)
    refuse_missing(missing)
    return given


def refuse_missing(missing: Mapping[str, npt.NDArray[np.bool_]]) -> None:
    """Refuses the first row that lacks a value.

    Args:
        missing: Whether each of B rows lacks its value, by name of the column.

    Raises:
        DataError: A row lacks a value; the message names all columns that it lacks.
    """
    first_rows = [int(missing_B.argmax()) for missing_B in missing.values() if missing_B.any()]
    if not first_rows:
        return
    row = min(first_rows)
    names = ", ".join(repr(name) for name, missing_B in missing.items() if missing_B[row])
    raise DataError(
        f"rows[{row}] has no value for {names}",
        "Give one for each: no training row lacked it. Null and an empty text are not values.",
    )
