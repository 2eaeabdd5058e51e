"""Section `data.windows`, and what it does not go together with."""

from __future__ import annotations

from typing import Any

import pytest
from window_rows import window_features

from raydc import models
from raydc.errors import SpecError
from raydc.spec import from_dict
from raydc.spec.forecast_models import LinearForecaster, TemporalConvolution
from raydc.spec.model import Recurrent
from raydc.spec.sections import Spec


def _spec(
    windows: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **data: Any
) -> Spec:
    section: dict[str, Any] = {
        "source": "rows.csv",
        "task": "regression",
        "target": "load",
        "windows": {"length": 4, "time": "time", **(windows or {})},
        "split": {"by": "time", "column": "time"},
        **data,
    }
    section = {name: value for name, value in section.items() if value is not None}
    return from_dict({"name": "s", "data": section, "model": model or {"name": "nlinear"}})


def test_forms_of_models() -> None:
    assert isinstance(_spec(model={"name": "dlinear"}).model, LinearForecaster)
    assert isinstance(_spec(model={"name": "tcn"}).model, TemporalConvolution)
    assert isinstance(_spec(model={"name": "gru", "normalise": "last"}).model, Recurrent)
    assert LinearForecaster(name="nlinear").way == "last"
    assert LinearForecaster(name="dlinear").way == "none"
    with pytest.raises(SpecError, match="kernel must be odd"):
        _spec(model={"name": "dlinear", "kernel": 4})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": None}, "data.split: windows overlap"),
        ({"split": {"by": "stratified"}}, "set {by: time, column: time}"),
        ({"split": {"by": "time", "column": "date"}}, "set {by: time, column: time}"),
        (
            {"windows": {"key": "id"}, "split": {"by": "group", "column": "room"}},
            "or {by: group, column: id}",
        ),
        ({"task": "classification"}, "windows are for data.task: regression"),
        ({"clean": {"duplicates": "drop"}}, "data.windows.repeats decides"),
        ({"clean": {"on_error": "quarantine"}}, "data.clean.on_error: windows do not list"),
        ({"features": {"columns": {"window": "numeric"}}}, "'window' is the name"),
        ({"windows": {"columns": ["heat", "time"]}}, "name 'time' twice"),
        ({"windows": {"columns": ["heat"]}}, "relative to the past of 'load'"),
        ({"windows": {"length": 0}}, "data.windows.length"),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        _spec(**given)
    assert message in str(refused.value)


def test_series_may_be_split_whole() -> None:
    _spec({"key": "id"}, split={"by": "group", "column": "id"})


@pytest.mark.parametrize(
    "model", [{"name": "nlinear"}, {"name": "tcn"}, {"name": "lstm", "normalise": "last"}]
)
def test_forecasters_need_windows(model: dict[str, Any]) -> None:
    value = {"source": "rows.csv", "task": "regression", "target": "load"}
    with pytest.raises(SpecError, match=r"for windows of a series; set data\.windows"):
        from_dict({"name": "s", "data": value, "model": model})


@pytest.mark.parametrize("name", ["dlinear", "nlinear", "tcn", "gru"])
def test_a_forecast_that_is_not_relative_needs_no_past_of_the_target(name: str) -> None:
    model = {"name": name, "normalise": "none"}
    signature = window_features(own_column=None).signature
    spec = _spec({"columns": ["heat"]}, model)
    assert models.build(spec.model, signature, 0)
    with pytest.raises(SpecError, match="relative to the past of 'load'"):
        _spec({"columns": ["heat"]}, {"name": name, "normalise": "window"})
