"""The section `train`: names of validation metrics."""

from __future__ import annotations

from typing import get_args

import pytest

from raydc import spec as specs
from raydc.spec.metric import ALL_SCORES, LOWER_IS_BETTER, MetricName


def test_metric_type_lists_every_score_and_the_loss() -> None:
    assert set(get_args(MetricName)) == {*ALL_SCORES, "loss"}
    assert {*ALL_SCORES, "loss"} >= LOWER_IS_BETTER


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_stored_spec_with_a_loss_is_read_again(name: str) -> None:
    text = f"name: a\ndata: {{source: a.csv}}\nmodel: {{name: mlp}}\ntrain: {{loss: {name}}}\n"
    resolved = specs.resolve(specs.loads(text))
    # A stored spec names every field, also those that its loss does not read.
    assert specs.resolve(specs.from_dict(specs.to_dict(resolved))) == resolved
    assert specs.with_values(resolved, {"train.epochs": 2}).train.loss == resolved.train.loss
