"""Many rows are read at once, and give what each row gives alone."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from raydc.errors import DataError
from raydc.features import raw_values
from raydc.features.category_columns import Categorical, HashedCategory

MISSING = frozenset(("NA", ""))
COLUMN = Categorical(("1", "true", "a", "1.5", "0"), has_other=True, has_missing=True)
HASHED = HashedCategory((), False, True, None, num_buckets=8, used=(0, 1, 2, 5))
# Values that are equal without being the same category, and the other way round.
GROUPS: dict[str, list[Any]] = {
    "texts": ["a", "1", "1.0", "NA", "", "True", "true", "other", None],
    "numbers": [1, 1.0, 0, -0.0, 0.0, 1.5, math.nan, float("nan"), None, 10**22, 1e22],
    "marks": [True, False, None],
    "mixed": [1, True, "1", 0, False, 1.0, None, "a", np.float64(1.5), np.str_("a")],
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("column", [COLUMN, HASHED])
def test_codes_of_many_values_are_those_of_each_alone(
    column: Categorical, group: str, seed: int
) -> None:
    chosen = random.Random(seed).choices(GROUPS[group], k=100)
    alone = [int(column.codes([value], "x", MISSING)[0]) for value in chosen]
    assert column.codes(chosen, "x", MISSING).tolist() == alone
    gone = [raw_values.is_missing(value, MISSING) for value in chosen]
    assert raw_values.missing_of(chosen, MISSING).tolist() == gone


def test_value_that_is_no_category_is_named_among_many() -> None:
    values: list[Any] = ["a"] * 50
    values[17] = ["a"]
    with pytest.raises(DataError, match=r"rows\[17\]\.x: .* is not a category"):
        COLUMN.codes(values, "x", MISSING)


def test_numbers_of_many_rows_are_those_of_each_alone() -> None:
    values = [1, 2.5, None, 2**53 + 1, -(2**63) - 1, 2**70 + 1, math.nan, 1e-320, -0.0] * 3
    found = raw_values.numbers(values, "x")
    alone = np.concatenate([raw_values.numbers([value], "x") for value in values])
    assert found.tobytes() == alone.tobytes()


@pytest.mark.parametrize("wrong", [10**400, "x", True, "1_0", math.inf])
def test_wrong_number_is_named_among_many(wrong: Any) -> None:
    values: list[Any] = [1.0] * 50
    values[17] = wrong
    with pytest.raises(DataError, match=r"^rows\[17\]\.x: "):
        raw_values.numbers(values, "x")


def test_a_function_is_called_once_for_each_value() -> None:
    calls: list[str] = []

    def note(value: str) -> int:
        calls.append(value)
        return len(value)

    lengths_B = raw_values.map_distinct(["a", "bb"] * 50, note, np.int16)
    assert lengths_B is not None
    assert lengths_B.dtype == np.int16
    assert lengths_B.tolist() == [1, 2] * 50
    assert calls == ["a", "bb"]
    assert raw_values.map_distinct([1, True] * 50, lambda value: value, object) is None
