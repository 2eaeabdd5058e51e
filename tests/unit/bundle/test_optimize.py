"""A faster form of a network is used, and logged, only if the golden rows allow it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from torch import Tensor, nn

from raydc import bundle, models
from raydc.bundle import Bundle, optimize
from raydc.registry import Registry
from raydc.serve.control import application
from raydc.serve.replica import loaded_version
from raydc.serve.settings import Traffic
from raydc.storage import Storage


@pytest.fixture
def trained(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A small model that counts as slow until it is compiled, and a compiler that does nothing."""
    folder = Storage(str(tmp_path)) / "made"
    small_models.write_bundle(folder, small_models.table_features(), num_golden=8)
    monkeypatch.setattr(
        optimize, "_forward_s", lambda one: 1.0 if one.compute == "as trained" else 0.1
    )
    monkeypatch.setattr(torch, "compile", lambda network, **options: network)
    monkeypatch.setattr(optimize, "has_bf16", lambda: True)
    return bundle.load(folder)


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """A compiler that gives a network with other outputs."""

    class Spoilt(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return change(self.network(x))

    monkeypatch.setattr(torch, "compile", lambda network, **options: Spoilt(network))


def test_optimize_uses_a_form_that_golden_rows_allow(
    trained: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ray.serve"):
        made = optimize.optimize(trained)
    assert made.compute == "compiled, bfloat16"
    assert len(caplog.messages) == 1
    assert "small is served compiled, bfloat16" in caplog.messages[0]


@pytest.mark.parametrize("num_rows", [1, 3, 8, 21])
def test_optimized_network_runs_compiled_sizes_only(trained: Bundle, num_rows: int) -> None:
    seen: list[int] = []

    def run(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x[:, :2] * 2

    x = torch.arange(num_rows * 3, dtype=torch.float32).reshape(num_rows, 3)
    outputs = optimize.OptimizedNetwork(run, in_bf16=False)(x)
    assert torch.equal(outputs, x[:, :2] * 2)
    assert set(seen) <= set(optimize.SIZES)
    assert sum(seen) < num_rows + optimize.SIZES[-1]


def test_optimize_refuses_and_logs_other_labels_or_scores(
    trained: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for change, said in (
        (torch.neg, "the label of golden rows"),
        (lambda y: 1.5 * y, "a score differs by"),
    ):
        caplog.clear()
        spoil(monkeypatch, change)
        with caplog.at_level(logging.WARNING, "ray.serve"):
            assert optimize.optimize(trained) is trained
        assert [said in message for message in caplog.messages] == [True, True], (
            "bfloat16, then float32"
        )


def test_optimize_keeps_the_network_if_the_compiler_fails(
    trained: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(network: nn.Module, **options: Any) -> nn.Module:
        raise RuntimeError("no such instruction\nand a long trace")

    monkeypatch.setattr(torch, "compile", fail)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        assert optimize.optimize(trained) is trained
    assert caplog.messages[0].endswith("RuntimeError: no such instruction")


def test_optimize_skips_short_networks_and_missing_compilers(
    trained: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ray.serve"):
        monkeypatch.setattr(optimize, "_forward_s", lambda one: 0.0001)
        assert optimize.optimize(trained) is trained
        monkeypatch.setattr(optimize.shutil, "which", lambda name: None)
        monkeypatch.delenv("CXX", raising=False)
        assert optimize.optimize(trained) is trained
    assert [
        "too little to gain" in caplog.messages[0],
        "no C++ compiler" in caplog.messages[1],
    ] == [True, True]


def test_disagreement_of_a_regression_is_in_standard_deviations() -> None:
    features = small_models.price_features()
    expected = np.zeros((4, 1), np.float32)
    assert optimize.find_disagreement(expected, expected + 0.01, features) is None
    assert "0.5 standard deviations" in str(
        optimize.find_disagreement(expected, expected + 0.5, features)
    )
    assert optimize.find_disagreement(expected, expected * np.nan, features) is not None


def test_optimize_runs_only_if_the_spec_says_so(
    trained: Bundle, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(Storage(str(tmp_path)))
    registry.register("small", registry.storage / "made", {})
    section = small_models.small_spec(registry.storage.uri).serve
    computes = []
    for value in ("none", "auto"):
        wanted = section.model_copy(update={"optimize": value})
        settings = application.build_settings("small", wanted, registry.storage, Traffic(version=1))
        loaded = loaded_version.load_version(settings, 1, None, ThreadPoolExecutor(1))
        computes.append(loaded.bundle.compute)
    assert computes == ["as trained", "compiled, bfloat16"]


@pytest.mark.soak
def test_real_compiler_makes_a_convolution_faster(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if not any(optimize.shutil.which(name) for name in optimize._COMPILERS):
        pytest.skip("no C++ compiler")
    folder = Storage(str(tmp_path)) / "made"
    spec = small_models.small_spec(str(tmp_path), model={"name": "resnet18"})
    features = small_models.picture_features()
    weights = dict(models.build(spec.model, features.signature, 0).state_dict())
    bundle.write(folder, spec, features, weights, small_models.picture_rows(8, 1), {"run": "r"})
    trained = bundle.load(folder)
    made = optimize.optimize(trained)
    assert made.compute.startswith("compiled"), caplog.messages
    x = trained.golden_inputs
    assert x is not None
    assert optimize.find_disagreement(trained.forward(x[:3]), made.forward(x[:3]), features) is None
