"""The small version of a user's spec."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import spec_of

from raydc import order
from raydc.chaos import shrink
from raydc.errors import UsageError


def test_num_train_rows_makes_three_epochs_with_a_short_last_step() -> None:
    assert shrink.num_train_rows(24, 32, 4, 10**6) == 7 * 32 + 16
    assert order.num_steps(shrink.num_train_rows(24, 32, 4, 10**6), 32) == 8
    assert shrink.num_train_rows(24, 4, 4, 10**6) == 7 * 4 + 4
    assert shrink.num_train_rows(24, 32, 4, 100) == 100


def test_shrink_spec_keeps_model_optimizer_and_workers(tmp_path: Path) -> None:
    train = {
        "epochs": 50,
        "early_stop": {"patience": 1},
        "optimizer": "sgd",
        "gradient_clip_norm": 1.0,
    }
    given = spec_of(
        tmp_path, "good", train=train, serve={}, scaling={"num_workers": {"min": 1, "max": 3}}
    )
    little = shrink.shrink_spec(given, 24, 9)
    assert (little.train.max_steps, little.train.epochs, little.train.early_stop) == (
        24,
        None,
        None,
    )
    assert (little.checkpoint.every_steps, little.fault_tolerance.max_failures, little.serve) == (
        3,
        9,
        None,
    )
    same = ("optimizer", "gradient_clip_norm", "global_batch_size", "logical_shards")
    assert all(getattr(little.train, name) == getattr(given.train, name) for name in same)
    assert (little.model, little.scaling) == (given.model, given.scaling)
    with pytest.raises(UsageError, match="--steps 3 is too few"):
        shrink.shrink_spec(given, 3, 1)
