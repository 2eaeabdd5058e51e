"""Fitted features: raw columns in, network inputs out, and answers back."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from raydc.errors import DataError
from raydc.features import Categorical, Features, Image, Numeric, Signature, images, nested

MIXED = Features(
    Signature("vector", (5,), "float32", (), (), "classification", ("no", "yes")),
    "bought",
    {
        "age": Numeric(mean=40.0, shift=40.0, scale=10.0),
        "city": Categorical(("Rome", "Oslo"), has_other=True, has_missing=True),
    },
    ignored=("id",),
    missing_values=("", "?"),
)
PRICE = Features(
    Signature("vector", (1,), "float32", (), (), "regression"),
    "price",
    {"size": Numeric(0.0, 0.0, 1.0)},
    target_mean=100.0,
    target_scale=20.0,
)
GREY = Features(
    Signature("image", (1, 4, 6), "uint8", (10.0,), (2.0,), "classification", ("a", "b")),
    "label",
    {"image": Image(4, 6, 1)},
)


def _png(pixels: Any, mode: str | None = None, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image = PilImage.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(buffer, format=kind)
    return buffer.getvalue()


def test_numbers_and_categories_side_by_side() -> None:
    x = MIXED.apply({"age": [50, None, "30"], "city": ["Oslo", "Paris", None]})
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [-1, 0, 0, 0, 1]])


def test_a_value_without_an_input_of_its_own_gives_zeros() -> None:
    column = Categorical(("Rome",), has_other=False, has_missing=False)
    np.testing.assert_array_equal(
        column.apply(["Rome", "Paris", None], "city", frozenset()), [[1], [0], [0]]
    )


def test_strings_that_mean_missing_are_missing() -> None:
    np.testing.assert_array_equal(
        MIXED.apply({"age": ["?", ""], "city": ["?", ""]}),
        MIXED.apply({"age": [None] * 2, "city": [None] * 2}),
    )


def test_a_category_may_come_as_a_number() -> None:
    column = Categorical(("1", "true"), has_other=False, has_missing=False)
    rows = column.apply([1, 1.0, "1", np.int64(1), True], "code", frozenset())
    np.testing.assert_array_equal(rows, [[1, 0]] * 4 + [[0, 1]])


def test_an_array_of_numbers_is_the_same_as_a_list() -> None:
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
def test_a_wrong_value_is_named_by_row_and_column(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MIXED.apply(columns)


def test_labels_become_positions() -> None:
    np.testing.assert_array_equal(MIXED.apply_target(["yes", "no"]), [1, 0])
    with pytest.raises(
        DataError, match=r"rows\[1\]\.bought: 'maybe' is not one of the model's classes\n.*no, yes"
    ):
        MIXED.apply_target(["yes", "maybe"])


def test_targets_of_a_regression_are_standardised_and_back() -> None:
    y = PRICE.apply_target([100, "140"])
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [0, 2])
    np.testing.assert_array_equal(PRICE.unscale(y[:, None]), [100, 140])
    assert PRICE.decode(np.array([[0.5]], dtype=np.float32)) == [{"value": 110.0}]
    with pytest.raises(DataError, match=r"rows\[0\]\.price: the target is missing"):
        PRICE.apply_target([None])


def test_answers_name_the_classes() -> None:
    (answer,) = MIXED.decode(np.array([[0.0, 1000.0]], dtype=np.float32))
    assert answer == {"label": "yes", "score": 1.0, "scores": {"no": 0.0, "yes": 1.0}}
    scores = MIXED.decode(np.array([[0.2, -1.0]], dtype=np.float32))[0]["scores"]
    assert sum(scores.values()) == pytest.approx(1.0)


def test_json_rows_become_columns() -> None:
    columns = MIXED.from_json_rows([{"age": 3}, {"city": "Rome", "bought": "yes", "id": 7}])
    assert columns == {"age": [3, None], "city": [None, "Rome"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"age": 1}, {"agee": 1, "age": 1}],
            r"rows\[1\]\.agee: unknown column\n.*Did you mean age\?",
        ),
        ([{}], r"rows\[0\]: none of the model's columns is there"),
        ([[1, 2]], r"rows\[0\]: list is not an object"),
    ],
)
def test_a_wrong_json_row_is_named(rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MIXED.from_json_rows(rows)


@pytest.mark.parametrize("features", [MIXED, PRICE, GREY])
def test_features_survive_json(features: Features) -> None:
    restored = Features.from_dict(json.loads(json.dumps(features.to_dict())))
    assert restored == features
    assert restored.hash == features.hash


def test_the_hash_sees_every_statistic() -> None:
    value = MIXED.to_dict()
    value["columns"][0]["scale"] = 10.000000000000002
    assert Features.from_dict(value).hash != MIXED.hash


def test_a_foreign_file_is_no_features() -> None:
    with pytest.raises(DataError, match="not the features of a data set"):
        Features.from_dict({"columns": []})


# Images ----------------------------------------------------------------------------------------------


def test_images_come_as_bytes_base64_lists_or_arrays() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    png = _png(pixels)
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


def test_a_block_of_images_is_the_same_as_one_by_one() -> None:
    block = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    np.testing.assert_array_equal(GREY.apply({"image": block}), GREY.apply({"image": list(block)}))
    colour = Image(4, 6, 3)
    block = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(colour.apply(block, "image"), colour.apply(list(block), "image"))
    np.testing.assert_array_equal(colour.apply(block, "image")[1, 2], block[1, :, :, 2])


def test_images_are_brought_to_the_fitted_size_and_channels() -> None:
    colour = np.zeros((8, 12, 3), dtype=np.uint8)
    colour[:, :, 1] = 255
    x = GREY.apply({"image": [_png(colour), np.full((2, 3), 9, dtype=np.uint8)]})
    assert x.shape == (2, 1, 4, 6)
    assert (x[0] == x[0, 0, 0, 0]).all()
    assert (x[1] == 9).all()
    np.testing.assert_array_equal(
        Image(2, 3, 3).apply([np.full((2, 3), 9, dtype=np.uint8)], "i"), np.full((1, 3, 2, 3), 9)
    )


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)]
)
def test_the_own_channels_of_an_image_are_kept(mode: str, channels: int) -> None:
    assert images.decode(_png(np.zeros((5, 4, 3)), mode)).shape == (5, 4, channels)


def test_deep_grey_is_scaled_and_not_clipped() -> None:
    buffer = io.BytesIO()
    PilImage.fromarray(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)).save(buffer, format="PNG")
    assert images.decode(buffer.getvalue())[0, :, 0].tolist() == [0, 0x80, 0xFF]


def test_png_for_json_is_lossless() -> None:
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
        np.testing.assert_array_equal(images.decode(images.encode_png(pixels)), pixels)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "there is no image"),
        (b"", "not a readable image"),
        (b"not an image", "not an image"),
        (_png(np.zeros((40, 40, 3)), kind="JPEG")[:200], "not a readable image"),
        ("%%%", "not base64 text"),
        ([[1, 2], [3]], "its rows differ in length"),
        ([[1, 256]], "not whole numbers from 0 to 255"),
        ([[1, 0.5]], "not whole numbers from 0 to 255"),
        ([[[1, 2]]], r"shape \(1, 1, 2\)"),
        ([["a", "b"]], "its values are not numbers"),
        ({"a": 1}, r"shape \(\)"),
    ],
)
def test_what_is_no_image_is_named(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"rows\[1\]\.image: .*{message}"):
        GREY.apply({"image": [np.zeros((4, 6), dtype=np.uint8), value]})


def test_a_long_text_among_many_leaves_takes_no_memory() -> None:
    value = [["x" * 20000], *[["y"]] * 2000]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not numbers"):
            nested.to_array(value)
        assert tracemalloc.get_traced_memory()[1] < 10 * 1024 * 1024, (
            "numpy would have taken 160 MB"
        )
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [[[1], 2], [[1], [2, 3]], [1, [2]]])
def test_lists_that_are_no_array_are_ragged(value: list[Any]) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        nested.to_array(value)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 33])
def test_an_answer_is_the_same_alone_and_among_others(num_classes: int) -> None:
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
