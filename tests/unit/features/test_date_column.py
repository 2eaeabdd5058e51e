"""Dates as parts: exact in whole numbers, for text and seconds alike."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from raydc.errors import DataError
from raydc.features import DateParts
from raydc.features.columns import column_from_dict, column_to_dict
from raydc.features.date_column import circle, civil_date, dates, seconds_of

NONE: frozenset[str] = frozenset()
ROUNDS = {"minute": 60, "hour": 24, "day_of_week": 7, "day": 31, "day_of_year": 366, "month": 12}


def _moments() -> list[datetime]:
    choose = np.random.default_rng(0)
    found = [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59), datetime(1969, 12, 31, 23, 59)]
    found += [datetime(year, 2, 28) + timedelta(days=1) for year in (1900, 2000, 2023, 2024)]
    found += [datetime(2024, 12, 31, 23, 59, 59, 999999), datetime(1970, 1, 1)]
    for _ in range(300):
        days, seconds = int(choose.integers(3_600_000)), int(choose.integers(86400))
        found.append(datetime(1, 1, 1) + timedelta(days=days, seconds=seconds))
    return found


def _place(moment: datetime, part: str) -> int:
    return {
        "minute": moment.minute,
        "hour": moment.hour,
        "day_of_week": moment.weekday(),
        "day": moment.day - 1,
        "day_of_year": moment.timetuple().tm_yday - 1,
        "month": moment.month - 1,
    }[part]


@pytest.mark.parametrize("part", ROUNDS)
def test_places_on_a_circle_are_those_of_the_calendar(part: Any) -> None:
    moments = _moments()
    x = DateParts((part,), 0.0, 1.0).apply([one.isoformat() for one in moments], "when", NONE)
    angles = [2 * math.pi * _place(one, part) / ROUNDS[part] for one in moments]
    expected = np.array([(math.sin(one), math.cos(one)) for one in angles])
    np.testing.assert_allclose(x, expected, atol=1e-7)
    assert DateParts((part,), 0.0, 1.0).num_inputs == 2


def test_civil_dates_are_those_of_the_calendar() -> None:
    moments = _moments()
    days = np.array([(one - datetime(1970, 1, 1)).days for one in moments])
    found = list(zip(*(part.tolist() for part in civil_date(days)), strict=True))
    assert found == [(one.year, one.month, one.day) for one in moments]


@pytest.mark.parametrize("num_steps", sorted(ROUNDS.values()))
def test_no_sine_lies_near_the_middle_of_two_float32(num_steps: int) -> None:
    for step in range(num_steps):
        angle = 2.0 * math.pi * step / num_steps
        for exact, found in zip(
            (math.sin(angle), math.cos(angle)), circle(num_steps)[step], strict=True
        ):
            # Another library of mathematics differs by less than 1e-15.
            for wrong in (exact - 1e-11, exact + 1e-11):
                assert np.float32(round(wrong, 12)) == found or abs(exact) < 1e-10


def test_text_seconds_and_zones_are_one_date() -> None:
    column = DateParts(("elapsed", "hour"), 1.7e9, 3600.0)
    seconds = seconds_of("2024-02-29T12:30:00")
    given = ["2024-02-29T12:30:00", "2024-02-29 12:30", "2024-02-29T14:30:00+02:00", seconds]
    given += [str(seconds), " 2024-02-29T12:30:00Z "]
    x = column.apply(given, "when", NONE)
    assert len({row.tobytes() for row in x}) == 1
    assert seconds == datetime(2024, 2, 29, 12, 30, tzinfo=UTC).timestamp()
    np.testing.assert_array_equal(column.apply(np.array([seconds]), "when", NONE), x[:1])


def test_missing_date_is_no_place_on_a_circle() -> None:
    column = DateParts(("elapsed", "year", "month"), 1.7e9, 3600.0, marks_missing=True)
    assert column.widths == (0, 0, 0, 0, 1)
    x = column.apply([None, "", "2024-02-29"], "when", frozenset({""}))
    np.testing.assert_array_equal(x[:2], [[0, 0, 0, 0, 1]] * 2)
    assert x[2, 4] == 0.0
    filled = DateParts(("month",), 0.0, 1.0, fill=seconds_of("2024-02-29"))
    np.testing.assert_array_equal(
        filled.apply([None], "when", NONE), filled.apply(["1999-02-01"], "when", NONE)
    )


@pytest.mark.parametrize("wrong", ["soon", "2024-13-01", True, "1_000", [1], 1e300, "29.02.2024"])
def test_no_date_is_refused_with_its_row(wrong: Any) -> None:
    with pytest.raises(DataError, match=r"rows\[1\]\.when: .* is not a date"):
        dates(["2024-02-29", wrong], "when", NONE)


def test_column_survives_json() -> None:
    for column in (
        DateParts(("month", "hour"), 5.0, 2.0),
        DateParts(("year",), 5.0, 2.0, 0.0, 0.0, 9.0, marks_missing=True),
    ):
        assert column_from_dict(column_to_dict(column)) == column
    assert DateParts(("hour",), seconds_of("2024-02-29T12:30:59"), 1.0).typical == (
        "2024-02-29T12:30"
    )
