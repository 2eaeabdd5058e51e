"""Folders of half precision: they train in single precision, and come out as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from decoder_folders import write_decoder
from encoder_folders import write_encoder
from test_exported_decoder import Trained
from test_exported_folder import make

from raydc import bundle, models
from raydc.errors import UsageError
from raydc.export import exported_folder
from raydc.storage import Storage


def halved(folder: Path, half: torch.dtype = torch.bfloat16) -> Path:
    """The same folder with weights of half precision."""
    path = folder / "model.safetensors"
    tensors = {name: one.to(half) for name, one in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(half)[6:]}))
    return folder


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_folder_of_half_precision_comes_out_byte_for_byte(
    tmp_path: Path, half: torch.dtype
) -> None:
    from transformers import AutoModelForCausalLM

    made = Trained(tmp_path, write=lambda place: halved(write_decoder(place), half))
    assert made.spec.model.content.dtype == str(half)[6:]
    loaded = made.untrained(tmp_path / "model")
    lines = exported_folder.write(loaded, "huggingface", tmp_path / "out")
    assert lines[1] == f"weights in {str(half)[6:]}, as in the folder of the model"
    given, found = (
        safetensors.torch.load_file(one / "model.safetensors")
        for one in (made.folder, tmp_path / "out")
    )
    assert given.keys() == found.keys()
    for name, one in given.items():
        assert one.dtype == found[name].dtype == half
        assert (
            one.view(torch.int16).numpy().tobytes()
            == found[name].view(torch.int16).numpy().tobytes()
        )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == half


def test_what_was_trained_is_rounded_and_counted(tmp_path: Path) -> None:
    made = Trained(tmp_path, write=lambda place: halved(write_decoder(place)))
    spec, features = made.spec_of(), made.data.features
    network = models.build(spec.model, features.signature, 0)
    with torch.no_grad():
        for name, one in network.named_parameters():
            if "layers.1.self_attn" in name:
                one.add_(1e-5)
    state = network.state_dict()
    bundle.write(Storage(str(tmp_path / "model")), spec, features, state, [{"text": "a"}], {})
    loaded = bundle.load(Storage(str(tmp_path / "model")))
    lines = exported_folder.write(loaded, "huggingface", tmp_path / "out")
    assert "; 4 tensors that were trained are rounded to it" in lines[1]
    given, found = (
        safetensors.torch.load_file(one / "model.safetensors")
        for one in (made.folder, tmp_path / "out")
    )
    for name, one in given.items():
        assert "layers.1.self_attn" in name or torch.equal(one, found[name]), name
    # The model itself stays in single precision.
    kept = loaded.model.state_dict()
    assert all(torch.equal(one, kept[name]) for name, one in state.items())


def test_a_base_of_half_precision_is_written_as_it_was(tmp_path: Path) -> None:
    made = Trained(tmp_path, write=lambda place: halved(write_decoder(place)))
    loaded = made.untrained(tmp_path / "model", lora={"rank": 2})
    lines = exported_folder.write(loaded, "huggingface", tmp_path / "out", with_base=True)
    assert "rounded" not in lines[1]
    given, found = (
        safetensors.torch.load_file(one / "model.safetensors")
        for one in (made.folder, tmp_path / "out" / "base")
    )
    assert all(torch.equal(one, found[name]) for name, one in given.items())
    adapters = safetensors.torch.load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {one.dtype for one in adapters.values()} == {torch.float32}


@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_an_encoder_of_half_precision_comes_out_as_it_was(tmp_path: Path, pooling: str) -> None:
    folder = halved(write_encoder(tmp_path / "encoder"))
    loaded = make(tmp_path / "model", folder, pooling=pooling)
    lines = exported_folder.write(loaded, "huggingface", tmp_path / "out")
    # With a pooler, the last layer is in the same file, and new.
    assert ("2 tensors that were trained are rounded" in lines[1]) == (pooling == "pooler")
    given, found = (
        safetensors.torch.load_file(one / "model.safetensors") for one in (folder, tmp_path / "out")
    )
    found = {name.removeprefix("bert."): one for name, one in found.items()}
    names = given.keys() & found.keys()
    assert len(names) >= len(given) - 2
    assert all(torch.equal(given[name], found[name]) for name in names)
    assert {one.dtype for one in found.values()} == {torch.bfloat16}


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    made = Trained(tmp_path, write=lambda place: halved(write_decoder(place), torch.float16))
    spec, features = made.spec_of(), made.data.features
    network = models.build(spec.model, features.signature, 0)
    with torch.no_grad():
        # Of float16 it is infinite.
        network.get_parameter("body.decoder.base.norm.weight")[0] = 1e5
    state = network.state_dict()
    bundle.write(Storage(str(tmp_path / "model")), spec, features, state, [{"text": "a"}], {})
    loaded = bundle.load(Storage(str(tmp_path / "model")))
    with pytest.raises(UsageError, match=r"a weight of .* is too large for float16"):
        exported_folder.write(loaded, "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()
