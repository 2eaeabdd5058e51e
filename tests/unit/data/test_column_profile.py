"""Profiles of columns: the same however rows are cut, and what their cells mean."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import values
from raydc.data.clean import Cleaner
from raydc.data.column_profile import (
    MAX_DISTINCT,
    RowProfile,
    cells_of,
    merge_profiles,
    numbers_of,
    profile_block,
)
from raydc.spec import from_dict, resolve

NUM_ROWS = 400
KINDS = {"a": "numeric", "b": "categorical", "y": "categorical", "z": "date"}


def _cleaner() -> Cleaner:
    section = {"source": "rows.csv", "target": "y"}
    spec = from_dict({"name": "x", "data": section, "model": {"name": "linear"}})
    return Cleaner(None, resolve(spec).data, 0, {"a": "numeric", "b": "categorical"})


def _table() -> pa.Table:
    generator = np.random.default_rng(0)
    numbers = generator.normal(scale=1e3, size=NUM_ROWS)
    return pa.table(
        {
            values.ROW_ID: np.arange(NUM_ROWS, dtype=np.int64),
            "a": pa.array(numbers, mask=np.arange(NUM_ROWS) % 9 == 0),
            "b": [("u", "v", None)[row % 3] for row in range(NUM_ROWS)],
            "y": [str(row % 4) for row in range(NUM_ROWS)],
            "z": pa.array([None if row % 5 else 3 for row in range(NUM_ROWS)], pa.date32()),
        }
    )


@pytest.mark.parametrize("cuts", [[1], [20, 40], list(range(1, NUM_ROWS, 7))])
def test_profiles_do_not_depend_on_where_rows_are_cut(cuts: list[int]) -> None:
    table, cleaner = _table(), _cleaner()
    bounds = [0, *cuts, NUM_ROWS]
    blocks = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    parts = [profile_block(block, cleaner, KINDS) for block in blocks]
    whole = profile_block(table, cleaner, KINDS)
    assert merge_profiles(parts) == whole
    assert RowProfile.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    assert sum(whole.num_rows) == NUM_ROWS
    # A kind that an inspection does not know is not guessed at.
    assert sum(part.num_missing for part in whole.columns["z"]) == 320


def test_cells_are_in_the_order_of_their_numbers_and_keep_whole_ones() -> None:
    generator = np.random.default_rng(1)
    numbers = np.sort(generator.normal(size=2000) * 10.0 ** generator.integers(-300, 300, 2000))
    cells = cells_of(numbers)
    assert (np.diff(cells) >= 0).all()
    assert (np.abs(numbers_of(cells) / numbers - 1) < 1 / 4096).all()
    whole = np.arange(-8192.0, 8193.0)
    np.testing.assert_array_equal(numbers_of(cells_of(whole)), whole)
    assert cells_of(np.array([-0.0])) == cells_of(np.array([0.0]))


def test_quantiles_are_those_of_numpy_to_the_width_of_a_cell() -> None:
    table = _table()
    profiles = profile_block(table, _cleaner(), {"a": "numeric"}).columns["a"]
    total = profiles[0].plus(profiles[1]).plus(profiles[2])
    assert total.numbers is not None
    numbers = table.column("a").drop_null().to_numpy()
    fractions = (0.0, 0.1, 0.5, 0.9, 1.0)
    expected = np.quantile(numbers, fractions, method="lower")
    np.testing.assert_allclose(total.numbers.quantiles(fractions), expected, rtol=1 / 4096)
    assert (total.numbers.sums.low, total.numbers.sums.high) == (numbers.min(), numbers.max())


def test_different_numbers_are_counted_up_to_a_limit() -> None:
    def distinct(count: int) -> frozenset[float] | None:
        table = pa.table(
            {values.ROW_ID: np.arange(count), "a": np.arange(count) * 0.5, "y": ["p"] * count}
        )
        blocks = [table.slice(0, count // 2), table.slice(count // 2)]
        parts = [profile_block(block, _cleaner(), {"a": "numeric"}) for block in blocks]
        one, two, three = merge_profiles(parts).columns["a"]
        found = one.plus(two).plus(three).numbers
        assert found is not None
        return found.distinct

    assert len(distinct(MAX_DISTINCT) or ()) == MAX_DISTINCT
    assert distinct(MAX_DISTINCT + 1) is None
