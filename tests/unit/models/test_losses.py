"""Losses by name: values, class weights, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models.losses import LossSum, make_loss
from raydc.spec.loss import Loss

CPU = torch.device("cpu")
CLASSES = Signature("vector", (1,), "float32", (), (), "classification", ("a", "b", "c"))
NUMBER = Signature("vector", (1,), "float32", (), (), "regression", ())


def loss_of(
    signature: Signature = CLASSES, targets: npt.NDArray[np.int64] | None = None, **fields: Any
) -> LossSum:
    def read() -> npt.NDArray[np.int64]:
        assert targets is not None, "the targets of all rows were read without a need"
        return targets

    return make_loss(Loss(**fields) if fields else None, signature, read, CPU)


def outputs(num_columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(12, num_columns, generator=generator, dtype=torch.float64)
    if num_columns == 1:
        return values, torch.randn(12, generator=generator, dtype=torch.float64)
    return values, torch.randint(0, num_columns, (12,), generator=generator)


def huber(error: float) -> float:
    """The Huber loss with delta 0.5."""
    return 0.5 * error**2 if abs(error) <= 0.5 else 0.5 * (abs(error) - 0.25)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, lambda error: error**2),
        ({"name": "mse"}, lambda error: error**2),
        ({"name": "mae"}, abs),
        ({"name": "huber", "delta": 0.5}, huber),
    ],
)
def test_loss_of_a_regression_is_summed_over_rows(fields: Any, expected: Any) -> None:
    values, targets = outputs(1)
    found = loss_of(NUMBER, **fields)(values, targets)
    errors = (values[:, 0] - targets).tolist()
    assert {abs(error) > 0.5 for error in errors} == {True, False}
    assert float(found) == pytest.approx(sum(map(expected, errors)))


def test_loss_of_a_classification_is_summed_over_rows() -> None:
    values, targets = outputs(3)
    rows = torch.log_softmax(values, 1)[range(12), targets]
    assert float(loss_of()(values, targets)) == pytest.approx(float(-rows.sum()))
    weights = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)[targets]
    weighted = loss_of(name="cross_entropy", class_weights={"c": 0.5, "b": 3.0})
    found = weighted(values.float(), targets)
    assert float(found) == pytest.approx(float(-(rows * weights).sum()), rel=1e-5)
    # Label smoothing: the target is 0.9 of the class and 0.1 spread over all three.
    smooth = 0.9 * rows + 0.1 * torch.log_softmax(values, 1).mean(1)
    smoothed = loss_of(name="cross_entropy", label_smoothing=0.1)
    assert float(smoothed(values, targets)) == pytest.approx(float(-smooth.sum()))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_counts_rows_less_that_are_predicted_well(gamma: float) -> None:
    values, targets = outputs(3)
    found = loss_of(name="focal", gamma=gamma)(values, targets)
    probabilities = torch.softmax(values, 1)[range(12), targets]
    wanted = -((1 - probabilities) ** gamma * probabilities.log()).sum()
    assert float(found) == pytest.approx(float(wanted))
    weighted = loss_of(name="focal", gamma=gamma, class_weights={"b": 3.0})
    of_b = loss_of(name="focal", gamma=gamma)(values[targets == 1], targets[targets == 1])
    assert float(weighted(values, targets)) == pytest.approx(float(wanted + 2 * of_b))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_a_perfect_row_has_a_gradient(gamma: float) -> None:
    values = torch.tensor([[200.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    loss_of(name="focal", gamma=gamma)(values, torch.tensor([0, 0])).backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    assert values.grad[1].abs().sum() > 0


def test_balanced_weights_give_each_class_the_same_total() -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    balanced = loss_of(targets=targets.numpy(), name="cross_entropy", class_weights="balanced")
    values = torch.zeros(10, 3)
    totals = [float(balanced(values[targets == k], targets[targets == k])) for k in range(3)]
    assert totals == pytest.approx([totals[0]] * 3)
    # All rows together weigh as much as without weights.
    assert sum(totals) == pytest.approx(float(functional.cross_entropy(values, targets)) * 10)


def test_class_weights_name_what_is_wrong() -> None:
    with pytest.raises(SpecError, match="'bb' is not one of the classes; did you mean b"):
        loss_of(name="focal", class_weights={"bb": 2.0})


def test_balanced_weights_of_a_class_without_rows_are_finite() -> None:
    balanced = loss_of(targets=np.array([0, 2, 2]), name="cross_entropy", class_weights="balanced")
    values = torch.zeros(3, 3)
    without = [float(balanced(values[k : k + 1], torch.tensor([k]))) for k in range(3)]
    assert without[0] == pytest.approx(2 * without[2])
    assert np.isfinite(without[1])
