"""Categories as buckets, places in an order, and target means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raydc.features import Categorical, HashedCategory, OrdinalCategory, TargetMean
from raydc.features.category_columns import bucket_of
from raydc.features.columns import column_from_dict, column_to_dict
from raydc.features.encoded_categories import NUM_FOLDS, OutOfFold, folds_of
from raydc.features.table_layout import TableLayout

NONE: frozenset[str] = frozenset()
SIZE = OrdinalCategory(
    ("S", "M", "L"), ((0.0,), (1.0,), (2.0,)), (0.5,), (0.5,), (0.5,), (2.0,), marks_missing=True
)
MEAN = TargetMean(
    ("a", "b"), ((0.1, 0.6), (0.4, 0.2)), (0.3, 0.3), (0.2, 0.5), (0.3, 0.3), (1.0, 2.0)
)


def test_buckets_depend_on_the_bytes_of_the_text_alone() -> None:
    # Written down, because a data set of one raydc is read by the next.
    assert [bucket_of(value, 1000) for value in ("Rome", "Oslo", "", "naïve", "\ud800")] == [
        324,
        765,
        756,
        6,
        914,
    ]
    same = [7, 7.0, "7", "7.0", np.int64(7)]
    assert len({bucket_of(value, 65536) for value in same}) == 1
    assert bucket_of(True, 65536) == bucket_of("True", 65536) == bucket_of("true", 65536)


def test_unseen_category_shares_a_bucket_or_gives_zeros() -> None:
    used = tuple(sorted({bucket_of(name, 8) for name in ("Rome", "Oslo", "Lima")}))
    column = HashedCategory(("Rome",), False, True, None, 8, used)
    names = [f"city {row}" for row in range(50)]
    x = column.apply([*names, None], "city", NONE)
    assert x.shape == (51, len(used) + 1)
    for name, row in zip(names, x[:-1], strict=True):
        assert row.sum() == (bucket_of(name, 8) in used)
    assert x[-1].tolist() == [0.0] * len(used) + [1.0]
    assert column.code_names == [*(f"bucket {n}" for n in used), "(missing)", "(not in training)"]


def test_order_is_a_number_and_unknown_ones_are_the_mean() -> None:
    x = SIZE.apply(["S", "M", "L", "XL", None], "size", NONE)
    np.testing.assert_array_equal(x, [[-0.25, 0], [0.25, 0], [0.75, 0], [0.0, 0], [0.0, 1]])
    assert SIZE.widths == (0, 1)


def test_target_means_have_a_number_for_each_class() -> None:
    x = MEAN.apply(["a", "b", "?", None], "city", frozenset())
    np.testing.assert_allclose(x, [[-0.2, 0.15], [0.1, -0.05], [0.0, 0.0], [-0.1, 0.1]], atol=1e-7)
    x = MEAN.apply(["?"], "city", frozenset({"?"}))
    np.testing.assert_allclose(x, [[-0.1, 0.1]], atol=1e-7)


def test_rows_out_of_fold_have_the_means_of_their_fold() -> None:
    without = tuple(
        TargetMean(("a",), ((float(fold),),), (9.0,), (8.0,), (0.0,), (1.0,))
        for fold in range(NUM_FOLDS)
    )
    folds = np.array([3, 0, 4, 1])
    x = OutOfFold(without, folds).apply(["a", "a", "b", None], "city", NONE)
    assert x[:, 0].tolist() == [3.0, 0.0, 9.0, 8.0]


def test_folds_depend_on_the_row_id_alone_and_are_even() -> None:
    ids = np.arange(100_000) + (3 << 40)
    folds = folds_of(ids)
    counts = np.bincount(folds, minlength=NUM_FOLDS)
    assert len(counts) == NUM_FOLDS
    assert counts.min() > 19_500
    np.testing.assert_array_equal(folds_of(ids[::7]), folds[::7])
    assert folds_of(np.arange(8)).tolist() == [4, 2, 3, 1, 3, 1, 4, 0]


@pytest.mark.parametrize(
    "column", [SIZE, MEAN, HashedCategory(("Rome",), False, False, "Rome", 8, (1, 5))]
)
def test_encoded_column_survives_json_and_storage(column: Any) -> None:
    assert column_from_dict(column_to_dict(column)) == column
    values = ["S", "a", "Rome", None, "city 3"]
    parts = [*column.stored(values, "c", NONE), np.zeros(5, np.uint8)]
    layout = TableLayout((*column.widths, 1))
    stored = layout.expand(layout.store(parts))["columns"][:, :-1]
    np.testing.assert_array_equal(stored, column.apply(values, "c", NONE))


def test_codes_of_plain_categories_stay() -> None:
    column = Categorical(("Rome", "Oslo"), has_other=True, has_missing=True, fill="Oslo")
    assert column.codes(["Oslo", "x", None], "c", NONE).tolist() == [1, 2, 1]
    assert column.code_names == ["Rome", "Oslo", "(other)", "(missing)", "(not in training)"]
