"""Decoders as graphs: the scores of each next token, for rows of any number and length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import require_library
from language_models import language_features, language_spec
from test_exported_decoder import ROW, Trained

from raydc import bundle, models
from raydc.export import exported_folder
from raydc.storage import Storage

TOKENS = np.array([ROW, ROW[::-1]], dtype=np.int64)


def run_onnx(folder: Path, tokens_BL: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["tokens"]
    return session.run(["outputs"], {"tokens": tokens_BL})[0]


def test_onnx_of_a_pretrained_decoder_has_the_logits_of_transformers(tmp_path: Path) -> None:
    """Adapters are inside the graph."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made = Trained(tmp_path, kind="gpt2")
    loaded = made.untrained(tmp_path / "model", lora={"rank": 2, "alpha": 2})
    exported_folder.write(loaded, "onnx", tmp_path / "graph")
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    network = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(made.folder), tmp_path / "out"
    ).eval()
    # A single document: transformers knows no others.
    tokens_BL = TOKENS[:1, :5]
    with torch.no_grad():
        expected = network(torch.from_numpy(tokens_BL)).logits.numpy()
    found = run_onnx(tmp_path / "graph", tokens_BL)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    described = json.loads((tmp_path / "graph" / "signature.json").read_text())
    assert described["inputs"] == ["tokens"]


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_a_decoder_from_scratch_keeps_documents_apart(tmp_path: Path, form: Any) -> None:
    require_library()
    spec, features = language_spec(str(tmp_path)), language_features()
    network = models.build(spec.model, features.signature, 0)
    rows = [{"text": "the cat sat on the mat"}]
    bundle.write(Storage(str(tmp_path / "model")), spec, features, network.state_dict(), rows, {})
    loaded = bundle.load(Storage(str(tmp_path / "model")))
    lines = exported_folder.write(loaded, form, tmp_path / "out")
    assert "any number of rows" in lines[0]
    column = features.token_column
    assert column is not None
    end = column.end_code
    # The second document alone, and behind another one.
    alone, behind = np.array([[end, 70, 80, 90]]), np.array([[end, 66, 67, end, 70, 80, 90]])

    def run(tokens_BL: Any) -> Any:
        if form == "onnx":
            return run_onnx(tmp_path / "out", tokens_BL)
        program: Any = torch.export.load(tmp_path / "out" / "model.pt2").module()
        with torch.no_grad():
            return program({"tokens": torch.from_numpy(tokens_BL)}).numpy()

    with torch.no_grad():
        expected = loaded.model.body.decoder(torch.from_numpy(behind)).numpy()  # type: ignore[operator, union-attr]
    found = run(behind)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    np.testing.assert_allclose(found[:, 3:], run(alone), atol=1e-5, rtol=0)
