"""Values that a client must give: those that no training row lacked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fitted import COMPLETE, GREY, MIXED

from raydc.errors import DataError
from raydc.features import Features, Numeric, Signature

NUMBERS = Features(
    Signature("vector", (3,), "float32", (), (), "regression"),
    "y",
    dict.fromkeys("abc", Numeric(2.0, 1.0, 4.0)),
    always_given=("a", "c"),
)


def apply(features: Features, rows: list[dict[str, Any]]) -> Any:
    return features.apply_given(features.from_json_rows(rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"age": 1}], r"rows\[0\] has no value for 'city'\n.*no training row lacked it"),
        ([{"city": "Rome", "bought": "no"}], r"rows\[0\] has no value for 'age'\n"),
        ([{"age": None, "city": "Rome"}], r"rows\[0\] has no value for 'age'\n.*Null"),
        ([{"age": "?", "city": ""}], r"rows\[0\] has no value for 'age', 'city'\n"),
        ([{"age": "nan", "city": "Rome"}], r"rows\[0\] has no value for 'age'\n"),
        (
            [{"age": 1, "city": "Rome"}, {"age": 2, "city": None}, {"city": "Rome"}],
            r"rows\[1\] has no value for 'city'\n",
        ),
        # What is wrong with the names comes first: it explains what is lacking.
        ([{"agee": 1, "city": "Rome"}], r"rows\[0\]\.agee: unknown column\n.*Did you mean age"),
        ([{}], r"rows\[0\] has none of the model's columns"),
        ([{"age": "old", "city": "Rome"}], r"rows\[0\]\.age: 'old' is not a number"),
    ],
)
def test_row_without_a_value_that_training_always_had_is_refused(
    rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        apply(COMPLETE, rows)


def test_row_with_all_values_gets_the_same_inputs() -> None:
    rows = [{"age": "30", "city": "Oslo"}, {"age": 7.5, "city": "Lima", "id": 4}]
    np.testing.assert_array_equal(apply(COMPLETE, rows), MIXED.apply(MIXED.from_json_rows(rows)))
    # Preparation fills in what held-out rows lack, and features without the record refuse nothing.
    lacking = MIXED.from_json_rows([{"age": 1}, {"city": "Rome"}])
    np.testing.assert_array_equal(COMPLETE.apply(lacking), MIXED.apply_given(lacking))


def test_column_that_training_rows_lacked_may_be_absent() -> None:
    features = replace(MIXED, always_given=("age",))
    np.testing.assert_array_equal(
        apply(features, [{"age": 1}, {"age": 1, "city": None}]),
        MIXED.apply({"age": [1, 1], "city": [None, None]}),
    )


def test_tensor_with_nan_is_refused_like_a_row_with_null() -> None:
    values_BF = np.array([[1, np.nan, 3], [1, 2, 3]], dtype=np.float32)
    rows = [{"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3}]
    np.testing.assert_array_equal(NUMBERS.apply_numbers(values_BF), apply(NUMBERS, rows))
    values_BF[1] = np.nan
    for refused in (
        lambda: NUMBERS.apply_numbers(values_BF),
        lambda: NUMBERS.apply_given(dict(zip("abc", values_BF.T, strict=True))),
    ):
        with pytest.raises(DataError, match=r"rows\[1\] has no value for 'a', 'c'\n"):
            refused()


def test_absent_column_of_a_file_is_named() -> None:
    with pytest.raises(DataError, match="column 'city' is missing"):
        COMPLETE.apply_given({"age": [1]})


def test_record_survives_json_and_leaves_older_features_as_they_were() -> None:
    assert "always_given" not in MIXED.to_dict()
    value = json.loads(json.dumps(COMPLETE.to_dict()))
    assert Features.from_dict(value).always_given == ("age", "city")
    assert Features.from_dict(value).hash == COMPLETE.hash != MIXED.hash
    del value["always_given"]
    assert Features.from_dict(value).hash == MIXED.hash
    assert GREY.always_given == ()
