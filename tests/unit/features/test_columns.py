"""Fitted columns: categories and images."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from fitted import GREY, make_png

from raydc.errors import DataError
from raydc.features import Categorical, CategoryCodes, Image, Numeric
from raydc.features.columns import column_from_dict, column_to_dict


def test_categorical_gives_zeros_for_a_value_without_an_input() -> None:
    column = Categorical(("Rome",), has_other=False, has_missing=False)
    np.testing.assert_array_equal(
        column.apply(["Rome", "Paris", None], "city", frozenset()), [[1], [0], [0]]
    )


def test_categorical_takes_a_category_as_a_number() -> None:
    column = Categorical(("1", "true"), has_other=False, has_missing=False)
    rows = column.apply([1, 1.0, "1", np.int64(1), True], "code", frozenset())
    np.testing.assert_array_equal(rows, [[1, 0]] * 4 + [[0, 1]])


def test_image_takes_bytes_base64_lists_and_arrays() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    png = make_png(pixels)
    given = [
        png,
        base64.b64encode(png).decode(),
        pixels.tolist(),
        pixels,
        pixels[:, :, None],
        pixels.astype(float),
    ]
    x = GREY.apply({"image": given})
    assert x.shape == (6, 1, 4, 6)
    assert x.dtype == np.uint8
    for image in x:
        np.testing.assert_array_equal(image[0], pixels)


def test_image_gives_the_same_for_a_block_and_one_by_one() -> None:
    block = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    np.testing.assert_array_equal(GREY.apply({"image": block}), GREY.apply({"image": list(block)}))
    colour = Image(4, 6, 3)
    block = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(colour.apply(block, "image"), colour.apply(list(block), "image"))
    np.testing.assert_array_equal(colour.apply(block, "image")[1, 2], block[1, :, :, 2])


def test_image_resizes_to_the_fitted_size_and_channels() -> None:
    colour = np.zeros((8, 12, 3), dtype=np.uint8)
    colour[:, :, 1] = 255
    x = GREY.apply({"image": [make_png(colour), np.full((2, 3), 9, dtype=np.uint8)]})
    assert x.shape == (2, 1, 4, 6)
    assert (x[0] == x[0, 0, 0, 0]).all()
    assert (x[1] == 9).all()
    np.testing.assert_array_equal(
        Image(2, 3, 3).apply([np.full((2, 3), 9, dtype=np.uint8)], "i"), np.full((1, 3, 2, 3), 9)
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "there is no image"),
        (b"", "not a readable image"),
        (b"not an image", "not an image"),
        (make_png(np.zeros((40, 40, 3)), kind="JPEG")[:200], "not a readable image"),
        ("%%%", "not base64 text"),
        ([[1, 2], [3]], "its rows differ in length"),
        ([[1, 2], 2], "its rows differ in length"),
        ([[1, 256]], "not whole numbers from 0 to 255"),
        ([[1, 0.5]], "not whole numbers from 0 to 255"),
        ([[[1, 2]]], r"shape \(1, 1, 2\)"),
        ([["a", "b"]], "its values are not numbers"),
        ({"a": 1}, r"shape \(\)"),
    ],
)
def test_image_names_a_value_that_is_no_image(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"rows\[1\]\.image: .*{message}"):
        GREY.apply({"image": [np.zeros((4, 6), dtype=np.uint8), value]})


@pytest.mark.parametrize(
    "column",
    [
        Numeric(1.0, 0.0, 1.0),
        Numeric(1.0, 0.0, 1.0, low=0.0),
        Numeric(1.0, 0.0, 1.0, high=0.0),
        Numeric(1.0, 0.0, 1.0, low=-0.0, high=0.0, marks_missing=True),
        Categorical(("a", ""), True, False, fill=""),
        CategoryCodes(("a",), False, True),
        Image(4, 5, 1, as_shown=True),
    ],
    ids=str,
)
def test_a_column_survives_json_whatever_equals_false(column: Any) -> None:
    value = json.loads(json.dumps(column_to_dict(column)))
    found = column_from_dict(value)
    assert found == column
    assert type(found) is type(column)
    # A limit that is not there is None, and not a number that is equal to it.
    assert [getattr(found, name, None) is None for name in ("low", "high", "fill")] == [
        getattr(column, name, None) is None for name in ("low", "high", "fill")
    ]
