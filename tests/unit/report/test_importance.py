"""What answers depend on: shuffled columns and gradients, on networks whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from records import make_rows, record_features
from training import training_spec

from raydc import bundle, models
from raydc.bundle import Bundle
from raydc.features import Numeric
from raydc.report import importance
from raydc.storage import Storage


def test_integrated_gradients_add_up_to_the_difference_of_the_outputs() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    x_B, baseline = torch.randn(40, 5), torch.randn(5)
    chosen = torch.randint(3, (40,))
    shares = importance.integrate_gradients(network, x_B, baseline, chosen)
    with torch.no_grad():
        outputs = network(x_B).gather(1, chosen[:, None])[:, 0]
        expected = outputs - network(baseline[None])[0, chosen]
    torch.testing.assert_close(shares.sum(dim=1), expected, atol=2e-3, rtol=0)


def test_integrated_gradients_of_a_linear_network_are_its_weights_times_the_way() -> None:
    network = torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, -1.0, 0.0]]))
    x_B = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 5.0]])
    shares = importance.integrate_gradients(
        network, x_B, torch.zeros(3), torch.zeros(2, dtype=torch.int64)
    )
    torch.testing.assert_close(shares, torch.tensor([[2.0, -1.0, 0.0], [6.0, 0.0, 0.0]]))


@pytest.fixture
def loaded(tmp_path: Path) -> Bundle:
    """A model of `age`, `hours` and `job` that reads `hours` only."""
    folder = Storage(str(tmp_path / "bundle"))
    small_models.write_bundle(folder, small_models.table_features())
    made = bundle.load(folder)

    class OnlyHours(torch.nn.Module):
        def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
            return torch.stack([x_BD[:, 1], -x_BD[:, 1], 0 * x_BD[:, 1]], dim=1)

    object.__setattr__(made, "model", OnlyHours())
    return made


def _inputs(loaded: Bundle) -> Any:
    rows = small_models.table_rows(200)
    return loaded.features.apply(loaded.features.from_json_rows(rows))


def test_only_the_column_that_is_read_is_important(loaded: Bundle) -> None:
    x = _inputs(loaded)
    expected = loaded.forward(x).argmax(axis=1)

    def loss_of(outputs_BK: Any) -> float:
        return float((outputs_BK.argmax(axis=1) != expected).mean() + 1.0)

    before = x.copy()
    found = importance.shuffle_columns(loaded, x, loss_of, math.inf)
    rises = {one["column"]: one["rise"] for one in found["columns"]}
    assert found["columns"][0]["column"] == "hours" or rises["hours"] == max(rises.values())
    assert (rises["age"], rises["job"]) == (0.0, 0.0)
    assert (found["rows"], found["base"], found["left_out"]) == (200, 1.0, 0)
    np.testing.assert_array_equal(x, before)
    assert importance.shuffle_columns(loaded, x, loss_of, math.inf) == found


def test_columns_without_time_are_counted(loaded: Bundle) -> None:
    found = importance.shuffle_columns(loaded, _inputs(loaded), lambda outputs: 1.0, -math.inf)
    assert (found["columns"], found["left_out"]) == ([], 3)


def test_gradients_name_the_column_that_is_read(loaded: Bundle) -> None:
    x = _inputs(loaded)
    found = importance.explain_inputs(loaded, x, loaded.forward(x))
    assert found[0]["column"] == "hours"
    assert found[0]["share"] == pytest.approx(1.0)


def test_inputs_of_a_category_belong_to_its_column(loaded: Bundle) -> None:
    places = importance.input_slices(loaded.features, 5)
    assert places == {"age": slice(0, 1), "hours": slice(1, 2), "job": slice(2, 5)}
    assert importance.input_slices(loaded.features, 6) == {}


def test_a_mark_of_missing_numbers_belongs_to_its_column(loaded: Bundle) -> None:
    columns = {**loaded.features.columns, "age": Numeric(0.0, 0.0, 1.0, marks_missing=True)}
    places = importance.input_slices(replace(loaded.features, columns=columns), 6)
    assert places == {"age": slice(0, 2), "hours": slice(2, 3), "job": slice(3, 6)}


def test_columns_beside_other_fields_have_their_own_importance() -> None:
    rows, _ = make_rows(60, 3, is_stored=False)
    features = record_features()
    network = models.build(training_spec("store").model, features.signature, 0).eval()
    made = Bundle(network, features, training_spec("store"), {}, {"rows": []}, "", max_rows=16)
    before = made.forward(rows)
    found = importance.shuffle_columns(
        made, rows, lambda outputs: float(np.abs(outputs - before).mean()), math.inf
    )
    rises = {one["column"]: one["rise"] for one in found["columns"]}
    assert set(rises) == {"height", "color", "city", "words", "series", "photo"}
    assert all(rise > 0 for rise in rises.values())
