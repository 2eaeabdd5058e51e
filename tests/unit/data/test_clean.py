"""Splits by a hash, repeated rows, and rows without a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_here import prepare_here

from raydc.data import clean
from raydc.errors import DataError


def test_hash_split_keeps_its_fractions() -> None:
    ids = np.arange(100_000, dtype=np.int64)
    splits = clean.hash_split(ids, 0, 0.1, 0.2)
    assert np.bincount(splits, minlength=3) / len(ids) == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    # Ids of single rows in many files, as in a folder of images, are split as evenly.
    splits = clean.hash_split(ids[:10_000] << 40, 0, 0.1, 0.2)
    assert np.bincount(splits, minlength=3) / 10_000 == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_hash_split_of_a_row_does_not_depend_on_other_rows() -> None:
    ids = np.arange(1000, dtype=np.int64)
    whole = clean.hash_split(ids, 3, 0.1, 0.2)
    np.testing.assert_array_equal(clean.hash_split(ids[::7], 3, 0.1, 0.2), whole[::7])
    assert (clean.hash_split(ids, 4, 0.1, 0.2) != whole).any()


def test_find_later_copies_keeps_the_lowest_of_equal_rows() -> None:
    copies = clean.find_later_copies(np.array([9, 2, 5, 7]), [b"a", b"b", b"a", b"b"])
    assert copies.tolist() == [7, 9]


def test_missing_target_and_missing_features_have_a_policy_each(tmp_path: Path) -> None:
    lines = [
        f"{'' if row % 3 == 0 else row},{'' if row < 3 else ('no', 'yes')[row % 2]}\n"
        for row in range(120)
    ]
    (tmp_path / "rows.csv").write_text("a,y\n" + "".join(lines))
    num_rows: dict[tuple[str, str | None], Any] = {}
    for missing in ("impute", "drop", "error"):
        for missing_target in (None, "drop", "error"):
            policy = {"missing": missing, "missing_target": missing_target}
            data = {"source": f"{tmp_path}/rows.csv", "target": "y", "clean": policy}
            try:
                prepared, _ = prepare_here(tmp_path, data)
                num_rows[missing, missing_target] = sum(prepared.num_rows.values())
            except DataError as error:
                num_rows[missing, missing_target] = f"{error.message} {error.hint}"
    target = (
        f"{tmp_path}/rows.csv: row 1: y: the target is missing, here and in 2 other rows "
        "data.clean.missing_target: drop leaves such rows out."
    )
    feature = (
        f"{tmp_path}/rows.csv: row 1: a: the value is missing "
        "data.clean.missing: impute fills it in, drop leaves the row out."
    )
    assert num_rows == {
        ("impute", None): target,
        ("impute", "drop"): 117,
        ("impute", "error"): target,
        ("drop", None): 78,
        ("drop", "drop"): 78,
        ("drop", "error"): target,
        ("error", None): target,
        ("error", "drop"): feature,
        ("error", "error"): target,
    }
