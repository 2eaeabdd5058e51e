"""Errors of forecasts by step, beside those of the last value."""

from __future__ import annotations

import numpy as np
import pytest
from window_rows import MEAN, SCALE, window_features, window_rows

from raydc.models.evaluation_tables import describe
from raydc.models.forecast_scores import ForecastScores, last_values
from raydc.storage import canonical_json


def test_errors_by_step_over_all_blocks() -> None:
    choose = np.random.default_rng(0)
    predicted, expected = choose.normal(size=(2, 50, 3))
    last = choose.normal(size=50)
    found = []
    for order in ((0, 1), (1, 0)):
        scores = ForecastScores()
        for block in order:
            rows = slice(block * 30, 30 + block * 30)
            scores.add(block, predicted[rows], expected[rows], last[rows])
        found.append(scores.to_dict())
    assert found[0] == found[1]
    for step, one in enumerate(found[0]["by_step"]):
        error = predicted[:, step] - expected[:, step]
        assert one["step"] == step + 1
        assert one["mae"] == pytest.approx(np.abs(error).mean())
        assert one["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
        naive = np.abs(last - expected[:, step]).mean()
        assert one["persistence_mae"] == pytest.approx(naive)
        assert one["mae_over_persistence"] == pytest.approx(one["mae"] / naive)
    whole = found[0]["persistence_mae"]
    assert whole == pytest.approx(np.abs(last[:, None] - expected).mean())


def test_one_step_and_a_series_that_never_changes() -> None:
    scores = ForecastScores()
    scores.add(0, np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    [one] = scores.to_dict()["by_step"]
    assert (one["mae"], one["persistence_mae"], one["mae_over_persistence"]) == (0.5, 0.0, None)
    assert ForecastScores().to_dict() == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200, 1e308])
def test_errors_of_a_model_that_has_diverged_are_none(value: float) -> None:
    scores = ForecastScores()
    for block in range(2):
        predicted = np.array([[value, 1.0], [value, 3.0]])
        scores.add(block, predicted, np.array([[1.0, 1.0]] * 2), np.array([0.0, 2.0]))
    found = scores.to_dict()
    # What no file could hold would end the evaluation.
    canonical_json(found)
    first, second = found["by_step"]
    assert first["rmse"] is None
    assert (first["mae"] is None) == (abs(value) != 1e200)
    assert (second["mae"], second["persistence_mae"], second["mae_over_persistence"]) == (1, 1, 1)
    assert found["persistence_mae"] == 1.0
    assert (found["mae_over_persistence"] is None) == (first["mae"] is None)
    lines = list(describe({"num_rows": 4, **found}, "test", None))
    assert "rmse not a number" in lines[1]
    assert "mae 1.0000" in lines[2]


def test_a_past_that_is_not_finite_has_no_error_to_compare_with() -> None:
    scores = ForecastScores()
    scores.add(0, np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.array([np.inf, 1.0]))
    found = scores.to_dict()
    canonical_json(found)
    assert (found["persistence_mae"], found["mae_over_persistence"]) == (None, None)


@pytest.mark.parametrize("own_column", [0, 1])
def test_the_last_value_is_that_of_the_target_in_its_units(own_column: int) -> None:
    x, _ = window_rows(5, 0)
    window = x.fields["window"]
    assert isinstance(window, np.ndarray)
    found = last_values(window_features(own_column), x)
    assert found is not None
    assert np.allclose(found, window[:, -1, own_column].astype(float) * SCALE + MEAN)
    assert last_values(window_features(own_column=None), x) is None
