"""The section `train`: names of validation metrics."""

from __future__ import annotations

from typing import get_args

from raydc.spec.train import ALL_SCORES, HIGHER_IS_BETTER, Metric


def test_metric_type_lists_every_score_and_the_loss() -> None:
    assert set(get_args(Metric)) == {*ALL_SCORES, "loss"}
    assert set(ALL_SCORES) >= HIGHER_IS_BETTER
