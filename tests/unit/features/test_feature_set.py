"""Fitted features: raw columns to network inputs, and outputs to answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fitted import GREY, MIXED, PRICE

from raydc.errors import DataError
from raydc.features import Features, Signature


def test_apply_puts_numbers_and_categories_side_by_side() -> None:
    x = MIXED.apply({"age": [50, None, "30"], "city": ["Oslo", "Paris", None]})
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [-1, 0, 0, 0, 1]])


def test_apply_takes_strings_that_mean_missing_as_missing() -> None:
    np.testing.assert_array_equal(
        MIXED.apply({"age": ["?", ""], "city": ["?", ""]}),
        MIXED.apply({"age": [None] * 2, "city": [None] * 2}),
    )


def test_apply_gives_the_same_for_an_array_and_a_list() -> None:
    ages = np.array([1.5, np.nan, 7.0])
    listed = MIXED.apply({"age": [1.5, None, 7], "city": ["Rome"] * 3})
    np.testing.assert_array_equal(MIXED.apply({"age": ages, "city": ["Rome"] * 3}), listed)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"age": [1, 2, 3, "x"], "city": ["Rome"] * 4}, r"rows\[3\]\.age: 'x' is not a number"),
        ({"age": [1, True], "city": ["Rome"] * 2}, r"rows\[1\]\.age: True is not a number"),
        ({"age": [[1]], "city": ["Rome"]}, r"rows\[0\]\.age: \[1\] is not a number"),
        ({"age": ["1_000"], "city": ["Rome"]}, r"rows\[0\]\.age: '1_000' is not a number"),
        (
            {"age": [1, float("inf")], "city": ["Rome"] * 2},
            r"rows\[1\]\.age: inf is not a finite number",
        ),
        (
            {"age": np.array([1, -np.inf]), "city": ["Rome"] * 2},
            r"rows\[1\]\.age: -inf is not a finite number",
        ),
        ({"age": [1], "city": [["Rome"]]}, r"rows\[0\]\.city: \['Rome'\] is not a category"),
        ({"age": [1]}, "column 'city' is missing"),
    ],
)
def test_apply_names_a_wrong_value_by_row_and_column(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MIXED.apply(columns)


def test_apply_target_turns_labels_into_positions() -> None:
    np.testing.assert_array_equal(MIXED.apply_target(["yes", "no"]), [1, 0])
    with pytest.raises(
        DataError, match=r"rows\[1\]\.bought: 'maybe' is not one of the model's classes\n.*no, yes"
    ):
        MIXED.apply_target(["yes", "maybe"])


def test_targets_of_a_regression_are_standardised_and_unscaled() -> None:
    y = PRICE.apply_target([100, "140"])
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [0, 2])
    np.testing.assert_array_equal(PRICE.unscale(y[:, None]), [100, 140])
    assert PRICE.decode(np.array([[0.5]], dtype=np.float32)) == [{"value": 110.0}]
    with pytest.raises(DataError, match=r"rows\[0\]\.price: the target is missing"):
        PRICE.apply_target([None])


def test_decode_names_the_classes() -> None:
    (answer,) = MIXED.decode(np.array([[0.0, 1000.0]], dtype=np.float32))
    assert answer == {"label": "yes", "score": 1.0, "scores": {"no": 0.0, "yes": 1.0}}
    scores = MIXED.decode(np.array([[0.2, -1.0]], dtype=np.float32))[0]["scores"]
    assert sum(scores.values()) == pytest.approx(1.0)


def test_from_json_rows_gives_columns() -> None:
    columns = MIXED.from_json_rows([{"age": 3}, {"city": "Rome", "bought": "yes", "id": 7}])
    assert columns == {"age": [3, None], "city": [None, "Rome"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"age": 1}, {"agee": 1, "age": 1}],
            r"rows\[1\]\.agee: unknown column\n.*Did you mean age\?",
        ),
        ([{}], r"rows\[0\] has none of the model's columns"),
        ([[1, 2]], r"rows\[0\]: list is not an object"),
    ],
)
def test_from_json_rows_names_a_wrong_row(rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MIXED.from_json_rows(rows)


@pytest.mark.parametrize("features", [MIXED, PRICE, GREY])
def test_features_survive_json(features: Features) -> None:
    restored = Features.from_dict(json.loads(json.dumps(features.to_dict())))
    assert restored == features
    assert restored.hash == features.hash


def test_hash_depends_on_every_statistic() -> None:
    value = MIXED.to_dict()
    value["columns"][0]["scale"] = 10.000000000000002
    assert Features.from_dict(value).hash != MIXED.hash


def test_from_dict_refuses_a_foreign_file() -> None:
    with pytest.raises(DataError, match="not the features of a data set"):
        Features.from_dict({"columns": []})


@pytest.mark.parametrize("num_classes", [2, 3, 10, 33])
def test_decode_gives_the_same_answer_alone_and_in_a_batch(num_classes: int) -> None:
    classes = tuple(str(number) for number in range(num_classes))
    features = Features(
        Signature("vector", (1,), "float32", (), (), "classification", classes), "label", {}
    )
    outputs_BK = (
        np.random.default_rng(0).normal(scale=8.0, size=(64, num_classes)).astype(np.float32)
    )
    together = features.decode(outputs_BK)
    assert together == [features.decode(outputs_BK[row : row + 1])[0] for row in range(64)]
    assert [one["label"] for one in together] == [
        classes[best] for best in outputs_BK.argmax(axis=1)
    ]
    assert all(one["score"] == max(one["scores"].values()) for one in together)
