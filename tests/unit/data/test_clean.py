"""Splits by a hash, and repeated rows."""

from __future__ import annotations

import numpy as np
import pytest

from raydc.data import clean


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
