"""The one text of a label or category, whatever type or format it comes in. Pure; used everywhere.

Preparation, training, evaluation and serving call the same function, so that a value that two
formats write differently is one class.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import numpy as np

# The decimal form that `float` and pandas write for a whole number. Codes such as 007 have no point
# and stay as they are; versions such as 1.10 differ from 1.1, so other numbers stay too.
WHOLE_AS_DECIMAL = r"^[+-]?[0-9]{1,300}\.0*$"
_WHOLE_AS_DECIMAL = re.compile(WHOLE_AS_DECIMAL)


def text_of(value: Any) -> str:
    """Text of a label or category.

    `3`, `3.0`, `"3"`, `"3.0"` and the decimal `3.00` are the same category, and so are `True` and
    `"true"`: JSON, Parquet and CSV write one value in different types.
    """
    if isinstance(value, str):
        # fullmatch, because `$` also matches before a line break at the end.
        if "." in value and _WHOLE_AS_DECIMAL.fullmatch(value):
            return str(int(value.partition(".")[0]))
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, Decimal):
        # Parquet and databases store `1.50` with a fixed number of places; JSON has 1.5.
        written = f"{value:f}" if value else "0"
        return written.rstrip("0").rstrip(".") if "." in written else written
    return str(value.item() if isinstance(value, np.generic) else value)


def find_position(positions: dict[str, int], value: Any) -> int | None:
    """Looks up a label or category by its text, in any of its spellings.

    Args:
        positions: Position by name, as `positions_of` makes it.
        value: A value of any plain type.

    Returns:
        Its position; None for an unknown value.
    """
    # Names of an older data set may be spelt as its files were: `1.0` beside `1`.
    found = positions.get(value) if isinstance(value, str) else None
    if found is None:
        found = positions.get(text_of(value))
    if found is None and isinstance(value, bool | np.bool_):
        # Python and pandas write True into CSV files, for which JSON has `true`.
        found = positions.get(str(bool(value)))
    return found


def positions_of(names: tuple[str, ...]) -> dict[str, int]:
    """Positions of names, by each name and by its canonical text.

    Args:
        names: Classes or categories in their order. Of two with one text the first counts.
    """
    by_name = {name: position for position, name in enumerate(names)}
    for position, name in enumerate(names):
        by_name.setdefault(text_of(name), position)
    return by_name
