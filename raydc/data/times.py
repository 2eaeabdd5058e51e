"""Dates, times and durations as seconds. Pure; used in tasks of Ray Data.

A date or a timestamp is the number of seconds since 1970 began in UTC, and a time of day since
midnight.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raydc.data import values
from raydc.data.values import Parsed
from raydc.features.date_column import seconds_of


def parse_times(column: pa.Array) -> Parsed:
    """Reads a column of numbers, or of text of numbers or of ISO 8601 dates, as times.

    Args:
        column: The column, after `values.simplify`.

    Returns:
        Numbers or seconds; `wrong` marks the cells that are neither, and `missing` those without a
        value.
    """
    parsed = values.parse_numbers(column)
    if not parsed.wrong.any():
        return parsed
    # Times often repeat, so each distinct text is parsed once.
    encoded = column.cast(pa.string()).dictionary_encode()
    by_code = np.array([seconds_of(text) for text in encoded.dictionary.to_pylist()])
    codes = np.asarray(encoded.indices.fill_null(0))
    seconds = np.where(parsed.wrong, by_code[codes], parsed.values)
    return Parsed(seconds, parsed.wrong & np.isnan(seconds), parsed.missing)
