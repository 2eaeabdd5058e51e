"""Slices: groups with more than their share of the loss, and none by chance."""

from __future__ import annotations

import numpy as np

from raydc.report import slices

NUM_ROWS = 2000


def test_groups_that_do_worse_are_found_and_measured() -> None:
    generator = np.random.default_rng(0)
    city = generator.choice(["Rome", "Oslo", "Lima"], NUM_ROWS).tolist()
    age = generator.uniform(20, 60, NUM_ROWS)
    is_bad = (np.array(city) == "Oslo") | (age > 50)
    losses = generator.exponential(1.0, NUM_ROWS) + 2.0 * is_bad
    columns = {"city": city, "age": [f"{one:.2f}" for one in age], "empty": [None] * NUM_ROWS}
    found = slices.find(columns, losses, losses < 2.0)
    assert {(one["column"], one["value"].split(" ")[0]) for one in found} == {
        ("city", "Oslo"),
        ("age", "from"),
    }
    oslo = next(one for one in found if one["column"] == "city")
    chosen = np.array(city) == "Oslo"
    assert oslo["rows"] == chosen.sum()
    assert oslo["loss"] == losses[chosen].mean()
    assert oslo["accuracy"] == (losses[chosen] < 2.0).mean()


def test_noise_gives_no_slice_and_missing_values_are_one() -> None:
    generator = np.random.default_rng(1)
    losses = generator.exponential(1.0, NUM_ROWS)
    cells = [f"k{one}" for one in generator.integers(0, 40, NUM_ROWS)]
    assert slices.find({"a": cells}, losses, None) == []
    gone = [None if row % 10 == 0 else row * 1.5 for row in range(NUM_ROWS)]
    losses[::10] += 5
    found = slices.find({"a": gone}, losses, None)
    assert [(one["value"], one["rows"]) for one in found] == [("(missing)", 200)]
    assert "accuracy" not in found[0]


def test_equal_losses_and_small_groups_give_none() -> None:
    assert slices.find({"a": ["x", "y"] * 500}, np.ones(1000), None) == []
    few = ["rare"] * 10 + ["often"] * 990
    losses = np.where(np.array(few) == "rare", 9.0, 1.0)
    assert slices.find({"a": few}, losses, None) == []
