"""Raw columns as numbers, texts and images."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import values


def test_parse_numbers_reads_text_of_numbers() -> None:
    column = pa.array(
        [
            "1",
            " 2.5 ",
            "+3",
            "1.",
            ".5",
            "-1e3",
            "NaN",
            "-inf",
            None,
            "",
            " ",
            "x",
            "1_0",
            "0x1",
            "1,5",
        ]
    )
    parsed = values.parse_numbers(column)
    np.testing.assert_array_equal(parsed.values[:6], [1, 2.5, 3, 1, 0.5, -1000])
    assert parsed.values[7] == -np.inf
    assert parsed.missing.tolist() == [False] * 6 + [True, False, True] + [False] * 6
    assert parsed.wrong.tolist() == [False] * 9 + [True] * 6


def test_parse_numbers_agrees_with_float() -> None:
    texts = [repr(float(x)) for x in np.random.default_rng(0).normal(size=1000) * 1e10]
    assert values.parse_numbers(pa.array(texts)).values.tolist() == [float(text) for text in texts]


def test_images_keep_their_pixels_in_arrow() -> None:
    block = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    for column in (
        values.image_block(block),
        values.image_array([image[:, :, None] for image in block]),
    ):
        assert column.type == values.IMAGE
        for index, image in enumerate(values.to_images(column.slice(1, 3))):
            np.testing.assert_array_equal(image[:, :, 0], block[index + 1])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None, "b", "a"]), ["a", None, "b", "a"]),
        # Each cell of a category has one spelling.
        (pa.array(["1.0", "1", None]), ["1", "1", None]),
        (pa.array([1.0, 2.5, math.nan, None]), ["1", "2.5", None, None]),
        (pa.array([3, 3, None]), ["3", "3", None]),
    ],
)
def test_column_of_texts_holds_what_the_coded_texts_say(
    column: pa.Array, expected: list[str | None]
) -> None:
    texts = values.text_column(column)
    assert texts.type == pa.string()
    assert texts.to_pylist() == expected == values.coded_texts(column).to_list()
