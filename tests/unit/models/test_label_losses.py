"""Losses of labels: values by torch's own functions, weights, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models.label_losses import LabelLoss
from raydc.models.losses import check_loss, make_loss
from raydc.spec.loss import Loss

SIGNATURE = Signature("vector", (1,), "float32", (), (), "multilabel", ("a", "b", "c"))
OUTPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
MARKS = (torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) < 0.3).to(torch.uint8)


def loss_of(**fields: Any) -> float:
    section = Loss(**fields) if fields else None
    made = make_loss(section, SIGNATURE, MARKS.numpy, torch.device("cpu"))
    return float(made(OUTPUTS, MARKS))


def bce(**options: Any) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(
        OUTPUTS, MARKS.float(), reduction="none", **options
    )


def test_the_loss_of_a_row_is_the_mean_over_its_labels() -> None:
    expected = float(bce().mean(1).sum())
    assert loss_of() == pytest.approx(expected)
    assert loss_of(name="binary_cross_entropy") == pytest.approx(expected)


def test_weights_are_those_of_torch() -> None:
    weights, positive = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 5.0, 1.0])
    found = loss_of(
        name="binary_cross_entropy", class_weights={"a": 2.0}, positive_weights={"b": 5.0}
    )
    assert found == pytest.approx(float(bce(weight=weights, pos_weight=positive).mean(1).sum()))


def test_balanced_positive_weights_make_both_sides_of_a_label_equal() -> None:
    counts = MARKS.sum(0)
    expected = bce(pos_weight=(12 - counts) / counts).mean(1).sum()
    found = loss_of(name="binary_cross_entropy", positive_weights="balanced")
    assert found == pytest.approx(float(expected))


def test_balanced_class_weights_give_each_label_the_same_total() -> None:
    counts = MARKS.sum(0).double()
    expected = bce(weight=(counts.mean() / counts).float()).mean(1).sum()
    found = loss_of(name="binary_cross_entropy", class_weights="balanced")
    assert found == pytest.approx(float(expected))


def test_smoothing_moves_each_mark_towards_one_half() -> None:
    wanted = MARKS * 0.8 + 0.1
    expected = functional.binary_cross_entropy_with_logits(OUTPUTS, wanted, reduction="none")
    found = loss_of(name="binary_cross_entropy", label_smoothing=0.2)
    assert found == pytest.approx(float(expected.mean(1).sum()))


def test_the_focal_loss_is_that_of_torchvision() -> None:
    from torchvision.ops import sigmoid_focal_loss

    expected = sigmoid_focal_loss(OUTPUTS, MARKS.float(), alpha=-1, gamma=1.5).mean(1).sum()
    assert loss_of(name="focal", gamma=1.5) == pytest.approx(float(expected))
    assert loss_of(name="focal", gamma=0.0) == pytest.approx(loss_of())


def test_a_label_without_rows_has_a_finite_balanced_weight() -> None:
    none = np.zeros((12, 3), dtype=np.uint8)
    section = Loss(
        name="binary_cross_entropy", class_weights="balanced", positive_weights="balanced"
    )
    made = make_loss(section, SIGNATURE, lambda: none, torch.device("cpu"))
    assert torch.isfinite(made(OUTPUTS, MARKS))


def test_a_label_without_rows_weighs_no_more_than_the_others() -> None:
    marks = MARKS.numpy().copy()
    marks[:, 1] = 0
    section = Loss(name="binary_cross_entropy", class_weights="balanced")

    def weights(given: np.ndarray[Any, Any]) -> list[float]:
        made = make_loss(section, SIGNATURE, lambda: given, torch.device("cpu"))
        assert isinstance(made, LabelLoss)
        assert made.weights_K is not None
        return made.weights_K.tolist()

    counts = marks.sum(0)
    first, rowless, last = weights(marks)
    assert rowless == 1.0
    # The labels that have rows are weighed as they would be without it.
    mean = (counts[0] + counts[2]) / 2
    assert [first, last] == pytest.approx([mean / counts[0], mean / counts[2]])
    assert weights(np.zeros_like(marks)) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("field", ["class_weights", "positive_weights"])
def test_weights_of_labels_that_do_not_exist_are_refused(field: str) -> None:
    section = Loss(name="binary_cross_entropy", **{field: {"d": 2.0}})
    with pytest.raises(SpecError, match=rf"train.loss.{field}: 'd' is not one of the labels"):
        check_loss(section, SIGNATURE)
