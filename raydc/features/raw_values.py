"""Raw values of a column: which are missing, and how others are read as numbers. Pure.

Shape suffixes: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown

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
    else:
        result = np.array(
            [_number(v, i, column, missing_values) for i, v in enumerate(values)], dtype=np.float64
        )
    if np.isinf(result).any():
        row = int(np.flatnonzero(np.isinf(result))[0])
        raise DataError(f"rows[{row}].{column}: {float(result[row])} is not a finite number")
    return result


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
