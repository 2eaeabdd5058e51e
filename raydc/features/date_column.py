"""The fitted column of dates: parts that are numbers, and cyclic parts. Pure.

Used in tasks of Ray Data, the driver and replicas. A date is a number of seconds since 1970 began
in UTC; a date without a zone is taken as UTC.

Shape suffixes: B rows, W inputs of a column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features.raw_values import Values, missing_of
from raydc.features.table_column import TableColumn, to_inputs
from raydc.spec.feature_options import DatePart

Whole = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NO_DATE = (
    "is not a date: neither a number of seconds nor text such as 2024-02-29 or 2024-02-29T12:00"
)
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
# Steps of one cycle.
_ROUNDS: dict[DatePart, int] = {
    "minute": 60,
    "hour": 24,
    "day_of_week": 7,
    "day": 31,
    "day_of_year": 366,
    "month": 12,
}
# Seconds of the years 1 to 9999, the range of dates as text.
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799


def seconds_of(text: str) -> float:
    """Seconds since 1970 of a date or a time in ISO 8601; NaN for other text."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return math.nan
    # Without a zone it is taken as UTC, so that the zone of the machine does not matter.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@cache
def circle(num_steps: int) -> npt.NDArray[np.float32]:
    """Sine and cosine of each step of a cycle, float32 [steps, 2].

    They are rounded from doubles, and none is near the middle between two float32, so every
    mathematical library gives the same numbers.

    Args:
        num_steps: Steps until the cycle begins again, such as 24 for hours.
    """
    angles = [2.0 * math.pi * step / num_steps for step in range(num_steps)]
    pairs = [(round(math.sin(one), 12), round(math.cos(one), 12)) for one in angles]
    return np.array(pairs, dtype=np.float32)


def civil_date(days_B: Whole) -> tuple[Whole, Whole, Whole]:
    """Year, month and day of the month, in whole numbers, of days since 1970-01-01.

    The method is Howard Hinnant's (chrono-compatible low-level date algorithms, 2013), whose years
    begin in March, so that a leap day is the last day of its year.
    """
    shifted_B = days_B + 719_468
    era_B = shifted_B // 146_097
    of_era_B = shifted_B - era_B * 146_097
    year_B = (of_era_B - of_era_B // 1460 + of_era_B // 36_524 - of_era_B // 146_096) // 365
    of_year_B = of_era_B - (365 * year_B + year_B // 4 - year_B // 100)
    march_B = (5 * of_year_B + 2) // 153
    day_B = of_year_B - (153 * march_B + 2) // 5 + 1
    month_B = np.where(march_B < 10, march_B + 3, march_B - 9)
    return year_B + era_B * 400 + (month_B <= 2), month_B, day_B


def _day_of_year(days_B: Whole, year_B: Whole) -> Whole:
    before_B = year_B - 1
    leaps_B = before_B // 4 - before_B // 100 + before_B // 400
    # Days from 0001-01-01 to 1970-01-01.
    return days_B + 719_162 - (before_B * 365 + leaps_B)


@dataclass(frozen=True)
class DateParts(TableColumn):
    """Two inputs for each cyclic part, its sine and cosine, and one for each other part.

    A missing date gives zeros: no point of a circle, and the mean of the other parts.

    Attributes:
        parts: Names of the parts, in the order of the inputs.
        mean: Mean of the training rows, in seconds.
        deviation: Their standard deviation; not 0.
        fill: Date that replaces a missing one, in seconds; None if none does.
        low, high: Limits to which dates beyond them are clipped; None if there is none.
        marks_missing: Whether one more input is 1 where the date is missing, else 0.
    """

    parts: tuple[DatePart, ...]
    mean: float
    deviation: float
    fill: float | None = None
    low: float | None = None
    high: float | None = None
    marks_missing: bool = False
    kind: ClassVar[str] = "date"

    @property
    def widths(self) -> tuple[int, ...]:
        """See the base class."""
        num_numbers = sum(2 if part in _ROUNDS else 1 for part in self.parts)
        return (0,) * num_numbers + (1,) * self.marks_missing

    @property
    def typical(self) -> str:
        """The mean date as text, to the minute, as a client may send it."""
        whole = int(self.mean // _MINUTE_S) * _MINUTE_S
        moment = datetime.fromtimestamp(min(max(whole, _FIRST_S), _LAST_S), UTC)
        return moment.replace(tzinfo=None).isoformat(timespec="minutes")

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw values into inputs.

        Args:
            values: Raw values of B rows: seconds, or text of seconds or of a date.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, W].

        Raises:
            DataError: A value is not a date; the message names its row and column.
        """
        seconds_B = dates(values, column, missing_values)
        missing_B = np.isnan(seconds_B)
        seconds_B[missing_B] = self.mean if self.fill is None else self.fill
        if self.low is not None or self.high is not None:
            seconds_B = np.clip(seconds_B, self.low, self.high)
        inputs = [part_B for part in self.parts for part_B in self._inputs(part, seconds_B, column)]
        if self.fill is None:
            inputs = [np.where(missing_B, np.float32(0.0), part_B) for part_B in inputs]
        if self.marks_missing:
            inputs.append(missing_B.astype(np.float32))
        return np.stack(inputs, axis=1)

    def _inputs(
        self, part: DatePart, seconds_B: Floats, column: str
    ) -> list[npt.NDArray[np.float32]]:
        if part == "elapsed":
            scaled_B = (seconds_B - self.mean) / self.deviation
            return [to_inputs(scaled_B, seconds_B, column)]
        whole_B = np.floor(seconds_B).astype(np.int64)
        days_B = whole_B // _DAY_S
        year_B, month_B, day_B = civil_date(days_B)
        if part == "year":
            middle, _, _ = civil_date(np.array([int(self.mean // _DAY_S)]))
            return [(year_B - middle).astype(np.float32)]
        steps: dict[DatePart, Whole] = {
            "minute": whole_B // _MINUTE_S,
            "hour": whole_B // _HOUR_S,
            # Weeks begin on Monday, and 1970-01-01 was a Thursday.
            "day_of_week": days_B + 3,
            "day": day_B - 1,
            "day_of_year": _day_of_year(days_B, year_B),
            "month": month_B - 1,
        }
        places_B2 = circle(_ROUNDS[part])[steps[part] % _ROUNDS[part]]
        return [places_B2[:, 0], places_B2[:, 1]]


def dates(values: Values, column: str, missing_values: frozenset[str]) -> Floats:
    """Reads raw values of a column of dates as seconds.

    Args:
        values: Raw values of B rows: seconds, or text of seconds or of a date.
        column: Name of the column, for messages.
        missing_values: Strings that mean "missing".

    Returns:
        float64 [B], NaN for a missing value.

    Raises:
        DataError: A value is not a date in the years 1 to 9999; the message names row and column.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        seconds_B = values.astype(np.float64)
        wrong_B = ~(np.isnan(seconds_B) | is_in_years(seconds_B))
    else:
        missing_B = missing_of(values, missing_values)
        read = [_seconds(value) for value in values]
        seconds_B = np.where(missing_B, math.nan, np.array(read, dtype=np.float64))
        wrong_B = ~missing_B & ~is_in_years(seconds_B)
    if wrong_B.any():
        row = int(np.flatnonzero(wrong_B)[0])
        raise DataError(
            f"rows[{row}].{column}: {shown(values[row])} {NO_DATE}",
            "Give a date, or null where it is missing.",
        )
    return seconds_B


def is_in_years(seconds_B: Floats) -> npt.NDArray[np.bool_]:
    """Whether each number of seconds lies in the years 1 to 9999; False for NaN."""
    return (seconds_B >= _FIRST_S) & (seconds_B <= _LAST_S)


def _seconds(value: Any) -> float:
    if isinstance(value, bool | np.bool_) or "_" in str(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return seconds_of(value) if isinstance(value, str) else math.nan
