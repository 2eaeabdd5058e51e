"""Sampling by class: how often each row occurs, and that nothing but three numbers decides it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training import training_spec, write_unbalanced

from raydc import train
from raydc.chaos import ledger
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.loop.sampler import Sampler, make_sampler
from raydc.order import Ids
from raydc.spec.sampling import Sampling
from raydc.storage import Storage
from raydc.tracking import events

# One class in three has no rows.
TARGETS = np.array([0] * 70 + [3] * 10 + [1] * 37 + [3] * 3, dtype=np.int64)[
    np.random.default_rng(0).permutation(120)
]


def sampler(name: str, max_repeats: float = 10.0, seed: int = 5) -> Sampler:
    section = Sampling(name=name, max_repeats=max_repeats)  # type: ignore[arg-type]
    made = make_sampler(section, seed, 4, lambda: TARGETS)
    assert made is not None
    return made


def whole_epoch(made: Sampler, epoch: int) -> Ids:
    return made.rows(epoch, np.arange(made.num_draws, dtype=np.int64))


@pytest.mark.parametrize(
    ("name", "max_repeats", "draws"),
    [
        ("balanced", 10.0, [40, 40, 0, 40]),
        ("oversample", 10.0, [70, 70, 0, 70]),
        ("undersample", 10.0, [13, 13, 0, 13]),
        # 1.5 times 37 and 13 rows.
        ("oversample", 1.5, [70, 55, 0, 19]),
    ],
)
def test_each_row_occurs_as_often_as_its_class_must(
    name: str, max_repeats: float, draws: list[int]
) -> None:
    made = sampler(name, max_repeats)
    assert made.draws == draws
    for epoch in range(3):
        ids = whole_epoch(made, epoch)
        counts = made.occurrences(epoch)
        np.testing.assert_array_equal(np.bincount(ids, minlength=120), counts)
        assert np.bincount(TARGETS[ids], minlength=4).tolist() == draws
        for label in (0, 1, 3):
            own = counts[label == TARGETS]
            # All equally often, or one of them once more.
            assert own.max() - own.min() <= 1


def test_rows_do_not_depend_on_how_positions_are_asked_for() -> None:
    made = sampler("balanced")
    whole = whole_epoch(made, 2)
    parts = [made.rows(2, np.arange(i, min(i + 7, 120), dtype=np.int64)) for i in range(0, 120, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    back = made.rows(2, np.arange(119, -1, -1, dtype=np.int64))
    np.testing.assert_array_equal(back[::-1], whole)


def test_epochs_and_seeds_draw_other_rows() -> None:
    made = sampler("undersample")
    drawn = [frozenset(whole_epoch(made, epoch).tolist()) for epoch in range(60)]
    assert len(set(drawn)) == 60
    # Over some epochs no row is left out.
    assert frozenset.union(*drawn) == frozenset(range(120))
    assert drawn[0] != frozenset(whole_epoch(sampler("undersample", seed=6), 0).tolist())


def test_the_ledger_finds_a_row_too_many(tmp_path: Path) -> None:
    data = prepared.load(write_unbalanced(Storage(str(tmp_path / "data"))))
    run = Storage(str(tmp_path / "run"))
    # Without sampling: each row once.
    train.run(training_spec(str(tmp_path), train={"epochs": 2}), data, run, lambda line: None)
    steps = events.surviving(events.read(run, "metrics"))
    assert ledger.violations(steps, 0, 200, 32) == []
    # The same number of draws, of which one row is drawn twice and another never.
    wrong = Sampler(0, np.arange(200, dtype=np.int32), [100, 100], [101, 99])
    found = ledger.violations(steps, 0, 200, 32, wrong)
    assert "epoch 1 has not used each row as often as it must" in found
    assert "epoch 2 has not used each row as often as it must" in found


def test_a_run_of_sampled_epochs_counts_them(tmp_path: Path) -> None:
    data = prepared.load(write_unbalanced(Storage(str(tmp_path / "data"))))
    run = Storage(str(tmp_path / "run"))
    spec = training_spec(str(tmp_path), train={"sampling": "oversample", "epochs": 2})
    result = train.run(spec, data, run, lambda line: None)
    assert result.epochs == 2
    history = events.surviving(events.read(run, "metrics"))
    rows = sum(record["rows"] for record in history if record["kind"] == "step")
    made = make_sampler(spec.train.sampling, 0, 2, lambda: open_rows(data.folder, "train").targets)
    assert made is not None
    assert rows == 2 * made.num_draws
    assert ledger.violations(history, 0, 200, 32, made) == []
