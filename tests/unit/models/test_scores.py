"""Metrics by task, compared with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydc.features import Features, Numeric, Signature
from raydc.models.scores import Scores


def features(task: str) -> Features:
    classes = ("a", "b", "c") if task == "classification" else ()
    signature = Signature("vector", (1,), "float32", (), (), task, classes)  # type: ignore[arg-type]
    return Features(
        signature, "y", {"x": Numeric(0.0, 0.0, 1.0)}, target_mean=50.0, target_scale=10.0
    )


def test_scores_of_a_classification_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 3, 50)
    scores = Scores(features("classification"))
    for part in (slice(0, 20), slice(20, 50)):
        scores.update(torch.from_numpy(logits[part]), torch.from_numpy(labels[part]))
    found = scores.compute()
    predicted = logits.argmax(1)
    f1 = []
    for label in range(3):
        hits = ((predicted == label) & (labels == label)).sum()
        f1.append(2 * hits / ((predicted == label).sum() + (labels == label).sum()))
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(50), labels]
    assert found["accuracy"] == pytest.approx((predicted == labels).mean())
    assert found["f1"] == pytest.approx(np.mean(f1))
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_scores_of_a_regression_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    outputs, targets = (
        rng.normal(size=(40, 1)).astype(np.float32),
        rng.normal(size=40).astype(np.float32),
    )
    scores = Scores(features("regression"))
    scores.update(torch.from_numpy(outputs), torch.from_numpy(targets))
    found = scores.compute()
    errors = (outputs[:, 0] - targets).astype(np.float64)
    assert found["rmse"] == pytest.approx(10 * np.sqrt((errors**2).mean()), rel=1e-6)
    assert found["mae"] == pytest.approx(10 * np.abs(errors).mean(), rel=1e-6)
    assert found["r2"] == pytest.approx(
        1 - (errors**2).sum() / ((targets - targets.mean()) ** 2).sum(), rel=1e-5
    )
    assert found["loss"] == pytest.approx((errors**2).mean(), rel=1e-5)


def test_scores_that_are_not_defined_are_none() -> None:
    scores = Scores(features("regression"))
    scores.update(torch.zeros(1, 1), torch.ones(1))
    assert scores.compute()["r2"] is None
