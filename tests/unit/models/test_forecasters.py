"""Networks that read the past steps of a series."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from window_rows import LENGTH, window_features, window_rows

from raydc import models
from raydc.errors import SpecError
from raydc.features import Field, Signature
from raydc.models.network_parts import Network
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.spec.forecast_models import LinearForecaster, TemporalConvolution
from raydc.spec.model import Linear, Mlp, Recurrent, Transformer

SIGNATURE = window_features().signature
MODELS: list[Any] = [
    LinearForecaster(name="nlinear"),
    LinearForecaster(name="dlinear", kernel=5),
    TemporalConvolution(name="tcn", width=6),
    Recurrent(name="lstm", width=6, depth=2),
    Recurrent(name="gru", width=6, bidirectional=False),
    Transformer(name="transformer", width=8, heads=2),
    Linear(name="linear"),
    Mlp(name="mlp", hidden=[8]),
]


def _network(model: Any, signature: Signature = SIGNATURE) -> Network:
    return models.build(model, signature, 1).eval()


def _inputs(count: int = 5, seed: int = 0) -> dict[str, Tensor]:
    inputs = network_inputs(to_tensors(window_rows(count, seed)[0]))
    assert isinstance(inputs, dict)
    return inputs


def _run(network: Network, inputs: dict[str, Tensor]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return network(inputs).numpy()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_step_and_field_counts_and_rows_do_not(model: Any) -> None:
    network, inputs = _network(model), _inputs()
    whole = _run(network, inputs)
    assert whole.shape == (5, 1)
    for row in range(5):
        alone = _run(network, {name: part[row : row + 1] for name, part in inputs.items()})
        assert np.allclose(alone[0], whole[row], atol=1e-6)
    for step in range(LENGTH):
        for column in range(2):
            changed = inputs["window"].clone()
            changed[:, step, column] += 1.0
            assert (_run(network, {**inputs, "window": changed}) != whole).all(), (step, column)
    assert (_run(network, {**inputs, "columns": inputs["columns"] + 1}) != whole).all()


@pytest.mark.parametrize(
    "model",
    [
        LinearForecaster(name="nlinear"),
        LinearForecaster(name="dlinear", normalise="last"),
        TemporalConvolution(name="tcn", width=6),
        Recurrent(name="gru", width=6, normalise="last"),
        Recurrent(name="lstm", width=6, normalise="window"),
        TemporalConvolution(name="tcn", width=6, normalise="window"),
    ],
    ids=str,
)
@pytest.mark.parametrize("own_column", [0, 1])
def test_a_relative_forecast_moves_with_the_level_of_the_series(
    model: Any, own_column: int
) -> None:
    network, inputs = _network(model, window_features(own_column).signature), _inputs()
    before = _run(network, inputs)
    # The other column has a level of its own, which says nothing.
    shifts = torch.tensor([100.0, -7.0])
    moved = inputs["window"] + (shifts if own_column == 0 else shifts.flip(0))
    after = _run(network, {**inputs, "window": moved})
    assert np.allclose(after, before + 100, atol=1e-3)
    if "window" in (getattr(model, "normalise", None),):
        sizes, shifts = torch.ones(2), torch.tensor([5.0, 5.0])
        sizes[own_column], shifts[own_column] = 8.0, 3.0
        wider = inputs["window"] * sizes + shifts
        assert np.allclose(_run(network, {**inputs, "window": wider}), before * 8 + 3, atol=1e-2)


def test_a_window_of_equal_values_has_a_forecast() -> None:
    network = _network(TemporalConvolution(name="tcn", width=6, normalise="window"))
    inputs = {**_inputs(), "window": torch.full((5, LENGTH, 2), 4.0)}
    assert np.isfinite(_run(network, inputs)).all()


@pytest.mark.parametrize("own_column", [0, 1])
def test_nlinear_without_weights_says_the_last_value(own_column: int) -> None:
    signature = window_features(own_column).signature
    network, inputs = _network(LinearForecaster(name="nlinear"), signature), _inputs()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert np.array_equal(_run(network, inputs)[:, 0], inputs["window"][:, -1, own_column].numpy())


def test_dlinear_has_a_layer_for_the_average_and_one_for_the_rest() -> None:
    network = _network(LinearForecaster(name="dlinear", kernel=5))
    inputs = _inputs()
    window = inputs["window"].double().numpy()
    ends = [window[:, :1]] * 2, [window[:, -1:]] * 2
    padded = np.concatenate([*ends[0], window, *ends[1]], axis=1)
    trend = np.stack([padded[:, step : step + 5].mean(axis=1) for step in range(LENGTH)], axis=1)
    read = [trend.reshape(5, -1), (window - trend).reshape(5, -1)]
    read.append(inputs["columns"].double().numpy())
    head: Any = network.body.head
    weights, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    assert np.allclose(_run(network, inputs), np.concatenate(read, axis=1) @ weights.T + bias)


@pytest.mark.parametrize(
    ("length", "kernel", "depth"), [(1, 3, 1), (5, 3, 1), (6, 3, 2), (96, 3, 5)]
)
def test_convolutions_see_the_whole_window_and_nothing_later(
    length: int, kernel: int, depth: int
) -> None:
    field = Field("array", "float32", (length, 1), own_column=0)
    signature = Signature("record", (), "", (), (), "regression", (), {"window": field})
    model = TemporalConvolution(name="tcn", width=6, kernel=kernel, normalise="none")
    reader: Any = _network(model, signature).body.reader
    assert len(reader.blocks) == depth
    window = torch.randn(1, 1, length, generator=torch.Generator().manual_seed(0))
    later = window.clone()
    later[..., -1] += 1
    for block in reader.blocks:
        window, later = block(window), block(later)
    assert torch.equal(window[..., :-1], later[..., :-1])


@pytest.mark.parametrize(
    "model",
    [
        LinearForecaster(name="nlinear"),
        TemporalConvolution(name="tcn"),
        Recurrent(name="gru", normalise="last"),
    ],
    ids=str,
)
def test_a_forecast_is_relative_to_a_past_that_is_there(model: Any) -> None:
    with pytest.raises(SpecError, match=r"is not among data\.windows\.columns"):
        _network(model, window_features(own_column=None).signature)


@pytest.mark.parametrize(
    "model", [LinearForecaster(name="dlinear"), TemporalConvolution(name="tcn")]
)
def test_rows_that_are_no_windows(model: Any) -> None:
    signature = Signature("vector", (3,), "float32", (), (), "regression")
    with pytest.raises(SpecError, match=f"{model.name} reads windows of a series"):
        _network(model, signature)
