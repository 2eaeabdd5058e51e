"""Forecasts of several steps: targets, losses, metrics and answers of many numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from window_rows import MEAN, SCALE, window_features, window_rows

from raydc import models
from raydc.features import Features, Signature
from raydc.models import losses
from raydc.models.own_scores import check_own_loss, check_own_metric
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.models.scores import Scores
from raydc.serve.protocol.interface import Interface
from raydc.spec.forecast_models import LinearForecaster
from raydc.spec.loss import Loss

FEATURES = window_features(horizon=3)
OUTPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


def mean_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().mean(1)


def last_step(values: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.abs(values[:, 2] - expected[:, 2]).mean())


def test_the_signature_counts_steps_and_keeps_older_hashes() -> None:
    signature = FEATURES.signature
    assert signature.num_outputs == 3
    assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature
    assert "num_values" not in window_features().signature.to_dict()
    read = Features.from_dict(json.loads(json.dumps(FEATURES.to_dict())))
    assert read == FEATURES
    assert read.hash == FEATURES.hash


def test_targets_and_answers_are_in_units_of_the_target() -> None:
    raw = np.array([[50.0, 70.0, 30.0], [90.0, 50.0, 50.0]])
    stored = FEATURES.apply_target(raw)
    assert stored.dtype == np.float32
    assert stored.tolist() == [[0, 1, -1], [2, 0, 0]]
    assert FEATURES.decode(stored) == [{"value": [50, 70, 30]}, {"value": [90, 50, 50]}]
    assert FEATURES.name_target(stored[0]) == [50, 70, 30]
    with pytest.raises(Exception, match=r"rows\[1\].load: the target is missing"):
        FEATURES.apply_target(np.array([[1.0, 2, 3], [1, np.nan, 3]]))


@pytest.mark.parametrize("name", [None, "mse", "mae", "huber"])
def test_the_loss_of_a_row_is_the_mean_over_its_steps(name: str | None) -> None:
    loss = losses.make_loss(
        Loss(name=name) if name else None,
        FEATURES.signature,
        lambda: pytest.fail("no targets are needed"),
        torch.device("cpu"),
    )
    errors = (OUTPUTS - TARGETS).abs()
    each = {
        "mae": errors,
        "huber": torch.where(errors < 1, errors.square() / 2, errors - 0.5),
    }.get(name or "", errors.square())
    assert float(loss(OUTPUTS, TARGETS)) == pytest.approx(float(each.mean(1).sum()), rel=1e-5)
    # One step as a list is one value.
    one = float(loss(OUTPUTS[:, :1], TARGETS[:, 0]))
    assert one == pytest.approx(float(each[:, 0].sum()), rel=1e-5)
    assert float(loss(OUTPUTS[:, :1], TARGETS[:, :1])) == pytest.approx(one, rel=1e-6)


def test_metrics_take_each_step_as_a_value() -> None:
    names = ["rmse", "mae", "r2", "mape", "test_several_steps:last_step"]
    found = []
    for blocks in ((0, 40), (0, 10, 40)):
        scores = Scores(FEATURES, names, 40)
        for number, start in enumerate(blocks[:-1]):
            rows = slice(start, blocks[number + 1])
            scores.update(OUTPUTS[rows], TARGETS[rows], number)
        found.append(scores.compute().values)
    assert found[0] == pytest.approx(found[1])
    said = OUTPUTS.double().numpy() * SCALE + MEAN
    true = TARGETS.double().numpy() * SCALE + MEAN
    assert found[0]["mae"] == pytest.approx(np.abs(said - true).mean())
    assert found[0]["rmse"] == pytest.approx(np.sqrt(((said - true) ** 2).mean()))
    spread = ((true - true.mean()) ** 2).sum()
    assert found[0]["r2"] == pytest.approx(1 - ((said - true) ** 2).sum() / spread)
    assert found[0]["test_several_steps:last_step"] == pytest.approx(
        np.abs(said[:, 2] - true[:, 2]).mean()
    )


def test_workers_share_what_they_judged() -> None:
    whole = Scores(FEATURES, ["mae", "test_several_steps:last_step"], 40)
    parts = [Scores(FEATURES, ["mae", "test_several_steps:last_step"], 40) for _ in range(2)]
    for block in range(4):
        rows = slice(10 * block, 10 * block + 10)
        whole.update(OUTPUTS[rows], TARGETS[rows], block)
        parts[block % 2].update(OUTPUTS[rows], TARGETS[rows], block)
    # Both workers send their tensors in the same order.
    sent: list[torch.Tensor] = []
    parts[1].share(lambda tensor: sent.append(tensor) or tensor, 40, 10)  # type: ignore[func-returns-value]
    others = iter(sent)
    parts[0].share(lambda tensor: tensor + next(others), 40, 10)
    assert parts[0].compute().values == whole.compute().values


def test_functions_of_a_user_get_all_steps() -> None:
    check_own_loss(Loss(name="test_several_steps:mean_error"), FEATURES.signature)
    check_own_metric("test_several_steps:last_step", FEATURES.signature)


def test_a_network_has_an_output_for_each_step() -> None:
    network = models.build(LinearForecaster(name="nlinear"), FEATURES.signature, 0)
    x, y = window_rows(5, 0, horizon=3)
    assert y.shape == (5, 3)
    assert network(network_inputs(to_tensors(x))).shape == (5, 3)


def test_the_interface_has_an_output_of_all_steps() -> None:
    [output] = Interface(FEATURES).outputs
    assert output == {"name": "value", "datatype": "FP64", "shape": [-1, 3]}
