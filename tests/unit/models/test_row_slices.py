"""Slices of stored rows by raw values, however the columns are stored."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.errors import UsageError
from raydc.features import Categorical, CategoryCodes, Features, Numeric, Signature
from raydc.models import row_slices
from raydc.models.row_slices import RowSlices, parse_slices

COLUMNS: dict[str, Any] = {
    "age": Numeric(mean=40.0, shift=40.3, scale=7.1),
    "job": Categorical(("cook", "nurse"), has_other=True, has_missing=True),
    "hours": Numeric(mean=38.0, shift=0.0, scale=40.0),
    "a:b": Categorical(("x", "y"), has_other=False, has_missing=False),
}
# 30 and 50 lie on edges; a missing number becomes the mean.
RAW: dict[str, Any] = {
    "age": [29.999, 30, 49.999, 50, None, 80],
    "job": ["cook", "pilot", None, "nurse", "cook", "nurse"],
    "hours": [1, 2, 3, 4, 5, 6],
    "a:b": ["y", "x", "z", None, "x", "y"],
}
AGES = ["below 30", "30 to 50", "30 to 50", "from 50 on", "30 to 50", "from 50 on"]
JOBS = ["cook", "(other)", "(missing)", "nurse", "cook", "nurse"]
LETTERS = ["y", "x", "(not in training)", "(not in training)", "x", "y"]


def features(**columns: Any) -> Features:
    every = {**COLUMNS, **columns}
    signature = Signature("vector", (8,), "float32", (), (), "classification", ("no", "yes"))
    return Features(signature, "y", every)


def named(slices: RowSlices, x: Any) -> list[str]:
    return [slices.names[position] for position in slices.positions(x)]


@pytest.mark.parametrize("as_stored", [True, False])
def test_rows_are_in_the_slice_of_their_raw_value(as_stored: bool) -> None:
    made = features()
    x = made.apply_stored(RAW) if as_stored else made.apply(RAW)
    ages, jobs, letters = parse_slices(["age:30,50", "job", "a:b"], made)
    assert named(ages, x) == AGES
    assert named(jobs, x) == JOBS
    assert named(letters, x) == LETTERS


def test_a_column_that_is_embedded_has_slices_too() -> None:
    made = features(job=CategoryCodes(("cook", "nurse"), has_other=True, has_missing=True))
    x = made.apply_stored(RAW)
    ages, jobs = parse_slices(["age:30,50", "job"], made)
    assert named(ages, x) == AGES
    assert named(jobs, x) == JOBS


def test_rare_categories_share_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_slices, "MAX_CATEGORIES", 1)
    made = features()
    (jobs,) = parse_slices(["job"], made)
    names = ["cook" if job == "cook" else "(rest)" for job in JOBS]
    assert named(jobs, made.apply_stored(RAW)) == names


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("agee:30", "the model has no column 'agee'", "age"),
        ("job:3", "'job' is a column of kind categorical", "Give the column alone."),
        ("age", "'age' is a number, and bins need ascending edges", "age:20,40,60"),
        ("age:50,30", "'age' is a number, and bins need ascending edges", "age:20,40,60"),
        ("age:old", "'age' is a number, and bins need ascending edges", "age:20,40,60"),
    ],
)
def test_a_slice_that_means_nothing_is_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_slices([text], features())
    assert caught.value.message == f"--slice {text}: {message}"
    assert hint in (caught.value.hint or "")
