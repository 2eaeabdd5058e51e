"""What a run records of the libraries and the attention of its network."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from decoder_folders import decoder_spec, write_decoder
from test_pretrained_decoders import signature
from token_rows import DATA, MODEL, token_features, write_rows
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import training_spec

from raydc import models, train
from raydc import spec as specs
from raydc.data import prepared
from raydc.models.computed_with import describe_libraries
from raydc.storage import Storage
from raydc.tracking import events


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # It has a dropout of its attention, which no fused kernel of a CPU takes.
    return write_decoder(tmp_path_factory.mktemp("decoder"), attention_dropout=0.1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, "eager"),
        ({"attention": "sdpa"}, "math"),
        ({"attention": "sdpa", "dropout": 0.0}, "flash_attention"),
    ],
    ids=str,
)
def test_the_kernel_of_a_pretrained_decoder(
    folder: Path, model: dict[str, Any], expected: str
) -> None:
    spec = specs.resolve(specs.from_dict(decoder_spec(folder, **model)))
    found = describe_libraries(spec, models.build(spec.model, signature(), 0))
    assert found["attention"] == expected
    assert found["transformers"] == importlib.metadata.version("transformers")
    assert "peft" not in found
    adapted = specs.resolve(specs.from_dict(decoder_spec(folder, lora={"rank": 2})))
    network = models.build(adapted.model, signature(), 0)
    assert describe_libraries(adapted, network)["peft"] == importlib.metadata.version("peft")


def test_networks_without_texts_record_nothing() -> None:
    spec = training_spec("store")
    assert describe_libraries(spec, torch.nn.Linear(1, 1)) == {}


def test_another_kernel_at_a_resume_is_said(tmp_path: Path) -> None:
    data = write_rows(Storage(str(tmp_path / "data")), {"train": 40, "validation": 20, "test": 20})
    spec = training_spec("store", train={"epochs": 1}, model=MODEL, data=DATA)
    network = models.build(spec.model, token_features().signature, 0)
    assert describe_libraries(spec, network) == {"attention": "flash_attention"}
    run = Storage(str(tmp_path / "run"))
    train.run(spec, prepared.load(data), run, lambda _: None)
    assert yaml.safe_load(run.read_bytes("run.lock.yaml"))["attention"] == "flash_attention"
    with sdpa_kernel(SDPBackend.MATH):
        train.run(spec, prepared.load(data), run, lambda _: None, resume=True)
    changed = [one for one in events.read(run, "events") if one["kind"] == "environment_changed"]
    assert [one["changes"] for one in changed] == [{"attention": ["flash_attention", "math"]}]
