"""Windows of a series: one hash for every number of workers and through resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from test_exact_options import check_exact, lines_of, spec_of
from window_rows import write_window_rows

from raydc.storage import Storage

WINDOWS = {"length": 12, "time": "time", "columns": ["load", "heat"]}
DATA = {
    "task": "regression",
    "target": "load",
    "windows": WINDOWS,
    "split": {"by": "time", "column": "time"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return write_window_rows(Storage(str(tmp_path_factory.mktemp("windows"))))


@pytest.mark.parametrize(
    "model",
    [
        {"name": "nlinear"},
        {"name": "dlinear", "kernel": 5, "normalise": "window"},
        {"name": "tcn", "width": 8, "dropout": 0.2},
        {"name": "gru", "width": 8, "normalise": "last"},
        {"name": "lstm", "width": 8, "depth": 2, "dropout": 0.2, "normalise": "window"},
    ],
    ids=str,
)
def test_forecasters(ranks: Ranks, data: Storage, tmp_path: Path, model: dict[str, Any]) -> None:
    spec = spec_of({"metrics": ["mae"], "learning_rate": 1e-2}, model=model, data=DATA)
    first, last = lines_of(check_exact(ranks, spec, data, tmp_path), "epoch")
    assert last["train_loss"] < first["train_loss"]


def test_forecasts_of_several_steps(ranks: Ranks, tmp_path: Path) -> None:
    data = write_window_rows(Storage(str(tmp_path / "steps")), horizon=4)
    section = {**DATA, "windows": {**WINDOWS, "horizon": 4}}
    own = {"metrics": ["rmse", "mae", "r2", "exact_models:worst_step"], "loss": "huber"}
    spec = spec_of({**own, "learning_rate": 1e-2}, model={"name": "nlinear"}, data=section)
    for epoch in lines_of(check_exact(ranks, spec, data, tmp_path), "epoch"):
        # The mean over all steps lies below that of the worst one.
        assert 0.0 < epoch["mae"] < epoch["exact_models:worst_step"]
