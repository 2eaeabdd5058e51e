"""Texts by distinct value: every result is that of the rows one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import values
from raydc.data.clean import DROPPED, TRAIN
from raydc.data.column_statistics import LabelCount, _count_labels
from raydc.data.shards import SPLITS
from raydc.errors import DataError
from raydc.features.coded_texts import CodedTexts
from raydc.features.targets import class_positions
from raydc.spec.label_text import positions_of, text_of

CELLS = ["b", None, "1.0", "a", "1", "b", None, "2.50", "a", "b"]


def coded() -> CodedTexts:
    return values.coded_texts(pa.array(CELLS))


def test_a_sequence_of_the_texts_of_all_rows() -> None:
    expected = [None if cell is None else text_of(cell) for cell in CELLS]
    texts = coded()
    assert list(texts) == texts.to_list() == expected == [texts[row] for row in range(len(texts))]
    assert texts.distinct == list(dict.fromkeys(expected))
    part = texts[3:6]
    assert list(part) == expected[3:6]
    assert part.distinct == list(dict.fromkeys(expected[3:6]))
    assert texts.counts() == Counter(expected)
    assert list(texts.counts()) == list(Counter(expected))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, None, float("nan"), -0.0, 0.0, 2.5, 1.0]),
        pa.array([3, 1, None, 3], pa.int8()),
        pa.array(["1.50", "1.5", None]).cast(pa.decimal128(5, 2)),
        pa.array([True, False, None, True]),
        pa.array([[1], None, [1], [2]]),
        pa.array([], pa.string()),
        pa.nulls(3),
        pa.array(["1.50", None]).cast(pa.decimal128(5, 2)).cast(pa.decimal32(5, 2)),
        pa.array(["1.50", None]).cast(pa.decimal128(5, 2)).cast(pa.decimal64(5, 2)),
        pa.array([bytes(16), None, bytes(16)], pa.uuid()),
        pa.array([b"x", None, b"x"]),
        pa.array([b"x", None], pa.binary_view()),
        pa.array(["x", "y", None, "x"]).dictionary_encode(),
        pa.array(["x", "y", None, "x"])[1:],
    ],
    ids=lambda column: str(column.type),
)
def test_cells_of_every_type_have_the_text_that_they_have_alone(column: pa.Array) -> None:
    gone = values.missing_mask(column)
    expected = [
        None if is_gone else text_of(cell)
        for cell, is_gone in zip(column.to_pylist(), gone, strict=True)
    ]
    assert values.to_texts(column) == expected


def test_a_function_is_called_once_for_each_distinct_text() -> None:
    seen = []

    def length_of(text: str | None) -> int:
        seen.append(text)
        return len(text or "")

    lengths_B = coded().map(length_of, np.int64)
    assert lengths_B.tolist() == [len(text or "") for text in coded()]
    assert sorted(map(str, seen)) == sorted(map(str, coded().distinct))


def test_numbers_of_a_column_of_few_texts_are_those_of_the_cells() -> None:
    cells = [" 1.5", "+2", "x", None, "", "nan", "inf", "-Infinity", "1e3", "1_0"]
    for repeats in (1, 40):
        parsed = values.parse_numbers(pa.array(cells * repeats))
        alone = [values.parse_numbers(pa.array([cell])) for cell in cells * repeats]
        for name in ("values", "wrong", "missing"):
            expected = np.concatenate([getattr(one, name) for one in alone])
            np.testing.assert_array_equal(getattr(parsed, name), expected)


def test_labels_are_counted_with_the_first_row_of_each_split() -> None:
    generator = np.random.default_rng(0)
    cells = generator.choice(["a;b", "b", "c;a", "", "d"], size=200).tolist()
    splits = generator.choice([*range(len(SPLITS)), DROPPED], size=200)
    ids = np.arange(1000, 1200)
    texts = values.coded_texts(pa.array(cells))
    sets = [text.split(";") for text in texts.distinct if text is not None]
    found = _count_labels(texts, sets, splits, ids)
    for code, split in enumerate(SPLITS):
        expected: dict[str, LabelCount] = {}
        for row in np.flatnonzero(splits == code):
            for label in cells[row].split(";"):
                before = expected.get(label, LabelCount(0, int(ids[row])))
                expected[label] = LabelCount(before.count + 1, before.first_row)
        assert found[split] == expected
        assert list(found[split]) == list(expected)
    assert set(splits) > {TRAIN, DROPPED}


def test_a_label_that_is_no_class_is_named_with_its_row() -> None:
    classes = ("a", "b", "1", "2.50", "None")
    positions = positions_of(classes)
    labels_B = class_positions(coded(), positions, classes, "y")
    one_by_one_B = class_positions(coded().to_list(), positions, classes, "y")
    assert labels_B.dtype == one_by_one_B.dtype
    assert labels_B.tolist() == one_by_one_B.tolist()
    with pytest.raises(DataError, match=r"rows\[3\].y: 'a' is not one of the model's classes"):
        class_positions(coded(), positions_of(("b", "1", "2.50", "None")), ("b",), "y")
