"""Raw values of a column: which are missing, and how others are read as numbers. Pure.

Shape suffixes: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features.coded_texts import CodedTexts

Values = Sequence[Any] | npt.NDArray[Any]


def is_missing(value: Any, missing_values: frozenset[str]) -> bool:
    """Whether a raw value is missing.

    Args:
        value: A raw value of any type.
        missing_values: Strings that mean "missing".
    """
    if isinstance(value, str):
        return value in missing_values
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def numbers(
    values: Values, column: str, missing_values: frozenset[str] = frozenset()
) -> npt.NDArray[np.float64]:
    """Reads raw values of a numeric column as numbers.

    Args:
        values: Raw values of B rows.
        column: Name of the column, for messages.
        missing_values: Strings that mean "missing".

    Returns:
        float64 [B], NaN for a missing value.

    Raises:
        DataError: A value is not a finite number; the message names its row and column.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        result = values.astype(np.float64)
    elif (read := _read_at_once(values)) is not None:
        result = read
    else:
        result = np.array(
            [_number(v, i, column, missing_values) for i, v in enumerate(values)], dtype=np.float64
        )
    if np.isinf(result).any():
        row = int(np.flatnonzero(np.isinf(result))[0])
        raise DataError(f"rows[{row}].{column}: {float(result[row])} is not a finite number")
    return result


# Few rows are read faster one by one.
_MANY_ROWS = 16
_NUMBERS = frozenset((int, float, NoneType))
# Equal values of these types are the same value: 1 and 1.0 are, 1 and True are not.
_PLAIN = _NUMBERS | {str}
_MARKS = frozenset((bool, NoneType))


def _read_at_once(values: Values) -> npt.NDArray[np.float64] | None:
    """Numbers as NumPy reads them, which is as `float` does; None if there are other values."""
    if len(values) < _MANY_ROWS or not _NUMBERS.issuperset(map(type, values)):
        return None
    try:
        return np.array(values, dtype=np.float64)
    # A whole number is too large. The error has to name its row.
    except OverflowError:
        return None


def map_distinct(
    values: Values, function: Callable[[Any], Any], dtype: npt.DTypeLike
) -> npt.NDArray[Any] | None:
    """Applies a function once to each distinct value: most columns of categories have few.

    Args:
        values: Raw values of B rows.
        function: Gives equal results for equal values.
        dtype: Type of its results.

    Returns:
        A result for each row, [B]; None if values have to be looked at one by one: there are few
        of them, or they may be equal without being the same.
    """
    if isinstance(values, CodedTexts):
        return values.map(function, dtype)
    if len(values) < _MANY_ROWS or isinstance(values, np.ndarray):
        return None
    types = frozenset(map(type, values))
    if not types <= _PLAIN and not types <= _MARKS:
        return None
    results = {value: function(value) for value in dict.fromkeys(values)}
    return np.array([results[value] for value in values], dtype=dtype)


def missing_of(values: Values, missing_values: frozenset[str]) -> npt.NDArray[np.bool_]:
    """Marks the missing values of a column.

    Args:
        values: Raw values of B rows.
        missing_values: Strings that mean "missing".

    Returns:
        bool [B].
    """

    def is_gone(value: Any) -> bool:
        return is_missing(value, missing_values)

    found = map_distinct(values, is_gone, np.bool_)
    if found is None:
        return np.array([is_gone(one) for one in values], dtype=np.bool_)
    return found


def _number(value: Any, row: int, column: str, missing_values: frozenset[str]) -> float:
    if is_missing(value, missing_values):
        return math.nan
    try:
        # Text of a number counts as a number, as in a CSV file. `float` also takes True and 1_000,
        # which preparation does not.
        if not isinstance(value, bool | np.bool_) and "_" not in str(value):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(
        f"rows[{row}].{column}: {shown(value)} is not a number",
        "Give a number, or null where it is missing.",
    )
