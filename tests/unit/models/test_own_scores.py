"""Losses and metrics of the user's own: how they are checked, and that they decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exact_models import brier, largest_error
from training import training_spec, write_line, write_pictures

from raydc import train
from raydc.checkpoint.state import unpack_state
from raydc.checkpoint.store import CheckpointStore
from raydc.data import prepared
from raydc.errors import SpecError
from raydc.features import Features, Numeric, Signature
from raydc.models.losses import check_loss
from raydc.models.own_scores import check_own_metric
from raydc.models.scores import Scores
from raydc.models.user_models import named_functions
from raydc.spec.loss import Loss
from raydc.storage import Storage

SIGNATURE = Signature("vector", (2,), "float32", (), (), "classification", ("a", "b", "c"))
BRIER, HINGE = "exact_models:brier", "exact_models:squared_hinge"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("centred", "gives a row a different loss alone than together with other rows"),
        ("mean_loss", r"returned \(\) for 6 rows, expected \(6,\)"),
        ("brier", "fails: "),
        ("without_gradient", "has no gradient"),
        ("fails", "fails: ZeroDivisionError: no rows of that kind"),
        ("missing", "module exact_models has no function missing"),
    ],
)
def test_a_loss_that_is_none_is_refused(function: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_loss(Loss(name=f"exact_models:{function}"), SIGNATURE)


def test_a_loss_takes_its_arguments() -> None:
    check_loss(Loss(name=HINGE, arguments={"margin": 2.0}), SIGNATURE)
    with pytest.raises(SpecError, match="unexpected keyword argument 'width'"):
        check_loss(Loss(name=HINGE, arguments={"width": 2.0}), SIGNATURE)
    with pytest.raises(ValueError, match="arguments are for a function of your own, not for focal"):
        Loss(name="focal", arguments={"gamma": 1.0})


def test_a_metric_that_is_none_is_refused() -> None:
    check_own_metric(BRIER, SIGNATURE)
    with pytest.raises(SpecError, match="does not return a number for 6 rows: ZeroDivisionError"):
        check_own_metric("exact_models:fails", SIGNATURE)


def test_a_metric_that_fails_later_is_none_with_the_reason() -> None:
    features = Features(SIGNATURE, "y", {name: Numeric(0.0, 0.0, 1.0) for name in "xz"})
    scores = Scores(features, (BRIER, "exact_models:fails"), 4)
    outputs, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    scores.update(outputs, labels)
    found = scores.compute()
    expected = brier(features.scores(outputs.numpy()), labels.numpy())
    assert found.values[BRIER] == pytest.approx(expected, abs=1e-12)
    assert found.reasons == {"exact_models:fails": "ZeroDivisionError: no rows of that kind"}


def test_own_metric_of_a_regression_is_in_units_of_the_target() -> None:
    signature = Signature("vector", (1,), "float32", (), (), "regression")
    features = Features(
        signature, "y", {"x": Numeric(0.0, 0.0, 1.0)}, target_mean=300.0, target_scale=100.0
    )
    scores = Scores(features, ("exact_models:largest_error",), 4)
    outputs, targets = torch.tensor([[0.0], [1.0], [2.0], [-1.0]]), torch.zeros(4)
    scores.update(outputs, targets)
    expected = largest_error(features.unscale(outputs.numpy()), np.full(4, 300.0))
    assert scores.compute().values["exact_models:largest_error"] == expected == 200.0


def test_own_functions_train_and_choose_the_best(tmp_path: Path) -> None:
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    section = {"loss": HINGE, "metric": BRIER, "mode": "max"}
    spec = training_spec(str(tmp_path), train=section)
    assert named_functions(spec) == [("train.loss.name", HINGE), ("train.metrics", BRIER)]
    run = Storage(str(tmp_path / "run"))
    # The wrong way round on purpose: the first epoch is the best.
    result = train.run(spec, data, run, lambda line: None)
    state = unpack_state(CheckpointStore(run / "checkpoints", 3).require_newest())
    assert state.best_step == 7
    assert result.metrics[BRIER] == state.best_metric


def test_own_metric_needs_a_direction(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="say whether more or less of your own metric is better"):
        training_spec(str(tmp_path), train={"metric": BRIER})


def test_own_loss_of_a_regression_is_taken(tmp_path: Path) -> None:
    data = prepared.load(write_line(Storage(str(tmp_path / "data"))))
    with pytest.raises(SpecError, match="exact_models:centred fails"):
        check_loss(Loss(name="exact_models:centred"), data.features.signature)
