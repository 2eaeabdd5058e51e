"""Models as graphs: what another runtime computes from the file, for any number of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from encoder_folders import make_texts, text_features, write_encoder
from required import absent
from torch import nn
from training import training_spec
from window_rows import window_features, window_requests

from raydc import bundle, models
from raydc.bundle import Bundle
from raydc.errors import CheckpointError, UsageError
from raydc.export import exported_folder, graph_file
from raydc.features import Features
from raydc.features.record import contiguous
from raydc.models import adapters
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.storage import Storage


def small_bundle(place: Path, features: Features, num_golden: int = 4) -> Bundle:
    small_models.write_bundle(Storage(str(place)), features, num_golden=num_golden)
    return bundle.load(Storage(str(place)))


def adapted_bundle(place: Path) -> Bundle:
    """A pretrained encoder with adapters that change its outputs."""
    folder = write_encoder(place / "encoder", num_hidden_layers=1)
    data = {"features": {"columns": {"body": "text"}, "text": {"max_tokens": 30}}}
    section = {"name": "huggingface", "path": str(folder), "lora": {"rank": 2}}
    spec = training_spec("store", data=data, model=section)
    features = text_features()
    network = models.build(spec.model, features.signature, 0)
    torch.manual_seed(1)
    for name, one in network.named_parameters():
        if adapters.is_added(name):
            nn.init.normal_(one, std=0.3)
    rows = [{"body": text} for text in ("free prize now", "lunch", "home later tomorrow ok")]
    bundle.write(Storage(str(place / "m")), spec, features, network.state_dict(), rows, {})
    return bundle.load(Storage(str(place / "m")))


def given(loaded: Bundle, rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Rows as a network takes them, and its outputs for them."""
    x = loaded.features.apply(loaded.features.from_json_rows(rows))
    inputs = network_inputs(to_tensors(contiguous(x)))
    with torch.no_grad():
        return inputs, loaded.model(inputs).numpy()


def texts(count: int) -> list[dict[str, Any]]:
    return [{"body": text or "ok"} for text in make_texts(count, 8)[0]]


@pytest.mark.parametrize(
    ("features", "make_rows"),
    [
        (small_models.table_features, small_models.table_rows),
        (small_models.picture_features, small_models.picture_rows),
        (small_models.text_features, small_models.text_rows),
    ],
)
def test_a_program_takes_any_number_of_rows(
    tmp_path: Path, features: Callable[[], Features], make_rows: Any
) -> None:
    loaded = small_bundle(tmp_path / "model", features())
    exported_folder.write(loaded, "torch_export", tmp_path / "out")
    program: Any = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for count in (1, 2, 5, 70):
        inputs, expected = given(loaded, make_rows(count))
        np.testing.assert_allclose(program(inputs).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    described = json.loads((tmp_path / "out" / "signature.json").read_text())
    assert described["classes"] == list(loaded.features.signature.classes)


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_a_program_of_series_takes_any_number_of_windows(tmp_path: Path, name: str) -> None:
    loaded = small_bundle(tmp_path / "model", window_features())
    section = training_spec("store", model={"name": name}).model
    network = models.build(section, loaded.features.signature, 0).eval()
    object.__setattr__(loaded, "model", network)
    exported_folder.write(loaded, "torch_export", tmp_path / "out")
    program: Any = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for count in (1, 3, 50):
        inputs, expected = given(loaded, window_requests(count))
        np.testing.assert_allclose(program(inputs).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_onnxruntime_computes_texts_of_any_length(tmp_path: Path) -> None:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        absent(f"no {error.name}")
    loaded = adapted_bundle(tmp_path)
    exported_folder.write(loaded, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["body", "body.length"]
    for count in (1, 3, 40):
        inputs, expected = given(loaded, texts(count))
        [found] = session.run(["outputs"], {name: one.numpy() for name, one in inputs.items()})
        assert np.abs(found - expected).max() <= 1e-5


def test_a_model_without_golden_rows_is_compared_too(tmp_path: Path) -> None:
    loaded = small_bundle(tmp_path / "model", small_models.table_features(), num_golden=0)
    assert exported_folder.write(loaded, "torch_export", tmp_path / "out")[1].startswith("loaded")


def test_a_network_that_cannot_become_a_graph_is_refused(tmp_path: Path) -> None:
    class ByValue(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1] if float(x.sum()) > 0 else x[:, 1:2]

    loaded = small_bundle(tmp_path / "model", small_models.table_features())
    object.__setattr__(loaded, "model", ByValue())
    with pytest.raises(UsageError, match=r"torch\.export cannot turn the network of small into"):
        exported_folder.write(loaded, "torch_export", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_onnx_is_refused_with_the_first_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        try:
            raise RuntimeError("no such operator: nll_loss2d")
        except RuntimeError as error:
            raise ValueError("\x1b[96mThis is step 2/3 of the conversion\x1b[0m") from error

    loaded = small_bundle(tmp_path / "model", small_models.table_features())
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UsageError, match="as ONNX: no such operator: nll_loss2d") as refused:
        exported_folder.write(loaded, "onnx", tmp_path / "out")
    assert "torch_export" in (refused.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_a_file_that_computes_something_else_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = small_bundle(tmp_path / "model", small_models.table_features())
    other = small_models.write_bundle
    other(Storage(str(tmp_path / "other")), small_models.table_features(), seed=1)
    trace = graph_file._trace
    wrong = bundle.load(Storage(str(tmp_path / "other")))
    monkeypatch.setattr(graph_file, "_trace", lambda _: trace(wrong))
    with pytest.raises(CheckpointError, match=r"model\.pt2 differs from small: by"):
        exported_folder.write(loaded, "torch_export", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "other"}


def test_missing_packages_are_named_with_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = small_bundle(tmp_path / "model", small_models.table_features())
    find = graph_file.importlib.util.find_spec
    monkeypatch.setattr(
        graph_file.importlib.util,
        "find_spec",
        lambda name: None if name == "onnxscript" else find(name),
    )
    with pytest.raises(UsageError, match="--format onnx needs onnxscript") as refused:
        exported_folder.write(loaded, "onnx", tmp_path / "out")
    assert refused.value.hint == "pip install 'raydc[onnx]'"
