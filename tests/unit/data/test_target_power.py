"""AUC, R2 and drift of single columns, against the plain definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import target_power, values
from raydc.data.clean import TRAIN, Cleaner
from raydc.data.column_profile import ColumnProfile, profile_block
from raydc.data.target_power import Binning
from raydc.spec import from_dict, resolve

NUM_ROWS = 1200


def _cleaner(task: str, kinds: dict[str, str]) -> Cleaner:
    section = {"source": "rows.csv", "target": "y", "task": task}
    spec = from_dict({"name": "x", "data": section, "model": {"name": "linear"}})
    return Cleaner(None, resolve(spec).data, 0, kinds)


def _table(task: str) -> pa.Table:
    generator = np.random.default_rng(3)
    kind = generator.integers(0, 4, NUM_ROWS)
    number = generator.normal(size=NUM_ROWS)
    signal = kind + number + generator.normal(size=NUM_ROWS)
    target = (
        pa.array(signal) if task == "regression" else pa.array([f"{one > 1.5}" for one in signal])
    )
    return pa.table(
        {
            values.ROW_ID: np.arange(NUM_ROWS, dtype=np.int64),
            "kind": [None if one == 3 else f"k{one}" for one in kind],
            "number": pa.array(number, mask=np.arange(NUM_ROWS) % 11 == 0),
            "y": target,
        }
    )


KINDS = {"kind": "categorical", "number": "numeric"}


def _count(table: pa.Table, task: str, blocks: list[pa.Table]) -> dict[str, target_power.Table]:
    cleaner = _cleaner(task, KINDS)
    profiles = profile_block(table, cleaner, KINDS).columns
    binnings = {name: Binning.of(kind, profiles[name][TRAIN]) for name, kind in KINDS.items()}
    classes = [] if task == "regression" else ["False", "True"]
    parts = [target_power.count_block(block, cleaner, binnings, classes) for block in blocks]
    return target_power.merge_tables(parts)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_counts_do_not_depend_on_where_rows_are_cut(task: str) -> None:
    table = _table(task)
    cuts = [0, 1, 500, 501, NUM_ROWS]
    blocks = [table.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    assert _count(table, task, blocks) == _count(table, task, [table])


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    table, cleaner = _table("classification"), _cleaner("classification", KINDS)
    found = target_power.auc_of(_count(table, "classification", [table])["kind"])
    is_training = cleaner.assign_splits(table) == TRAIN
    kind = np.array(table.column("kind").fill_null("missing").to_pylist())
    label = np.array(table.column("y").to_pylist()) == "True"
    prior = label[is_training].mean()
    scores = np.zeros(NUM_ROWS)
    for value in np.unique(kind):
        rows = is_training & (kind == value)
        scores[kind == value] = (label[rows].sum() + prior) / (rows.sum() + 1)
    positives, negatives = scores[~is_training & label], scores[~is_training & ~label]
    pairs = positives[:, None] - negatives[None, :]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    # Of two classes each is the other's contrary, so that both have the same AUC.
    assert found == pytest.approx(expected)
    assert 0.6 < expected < 0.95


def test_r2_is_that_of_the_means_of_bins() -> None:
    table, cleaner = _table("regression"), _cleaner("regression", KINDS)
    found = target_power.r2_of(_count(table, "regression", [table])["kind"])
    is_training = cleaner.assign_splits(table) == TRAIN
    kind = np.array(table.column("kind").fill_null("missing").to_pylist())
    y = table.column("y").to_numpy()
    said = np.zeros(NUM_ROWS)
    for value in np.unique(kind):
        said[kind == value] = y[is_training & (kind == value)].mean()
    rest, whole = y[~is_training] - said[~is_training], y[~is_training]
    assert found == pytest.approx(1 - (rest**2).sum() / ((whole - whole.mean()) ** 2).sum())


def test_undefined_powers_are_none() -> None:
    assert target_power.auc_of([[5, 0, 0, 3, 0, 0]]) is None
    assert target_power.r2_of([[0, 0, 0, 0, 0, 0]]) is None
    # Without held-out rows the training rows judge.
    assert target_power.auc_of([[5, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0]]) == 1.0


def test_drift_grows_with_the_difference_and_counts_missing_values() -> None:
    def drift(a: dict[str, int], b: dict[str, int], missing: int = 0) -> float:
        found = target_power.drift_of(
            ColumnProfile(categories=a), ColumnProfile(num_missing=missing, categories=b)
        )
        assert found is not None
        return found.psi

    same = {"x": 500, "y": 500}
    assert drift(same, same) == pytest.approx(0.0)
    assert 0 < drift(same, {"x": 550, "y": 450}) < 0.1 < drift(same, {"x": 850, "y": 150})
    assert drift(same, same, missing=500) > 0.25
    assert target_power.drift_of(ColumnProfile(), ColumnProfile(categories=same)) is None


def test_chance_is_exceeded_about_once_in_a_thousand_times() -> None:
    generator = np.random.default_rng(5)
    names = [f"k{index}" for index in range(8)]
    exceeded = 0
    for _ in range(2000):
        a, b = (
            ColumnProfile(
                categories=dict(
                    zip(names, generator.multinomial(size, [1 / 8] * 8).tolist(), strict=True)
                )
            )
            for size in (2000, 300)
        )
        found = target_power.drift_of(a, b)
        assert found is not None
        exceeded += found.psi > found.by_chance
    assert exceeded <= 10
