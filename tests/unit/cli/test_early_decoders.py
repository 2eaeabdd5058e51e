"""What commands say and refuse about a pretrained decoder before Ray starts and data is read."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import safetensors.torch
from decoder_folders import write_decoder
from pretrained_models import pretrained_spec
from test_early_encoders import invoke

from raydc.cli.early_checks import check_endpoint
from raydc.errors import ServeError

_SPEC = """name: talks
storage: store
data: {source: talks.jsonl, task: language_modelling, chat: {}, blocks: {length: 40}}
model: {name: huggingface, path: decoder}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A spec in the current folder, beside its data and its decoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def connect(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raydc.engine.connect", connect)
    (tmp_path / "talks.jsonl").write_text('{"messages": [{"role": "user", "content": "ok"}]}\n')
    write_decoder(tmp_path / "decoder")
    (tmp_path / "talks.yaml").write_text(_SPEC)
    return "talks.yaml"


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_what_trains_is_said(spec: str, command: str) -> None:
    code, output = invoke(command, spec, "--set", "model.lora={rank: 2}")
    assert code == 0, output
    assert "starts with the weights of" in output
    assert "model decoder of 6,096 parameters" in output
    assert "model trains 1,024 of 6,096 parameters: adapters of 14 linear layers" in output
    # Without adapters and frozen layers there is nothing to say about it.
    code, output = invoke(command, spec)
    assert code == 0, output
    assert "decoder of 5,072 parameters" in output
    assert "model trains" not in output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data.blocks.length=65", "data.blocks.length: 65 tokens are more than the 64 positions"),
        ("data.chat.template=ok", "data.chat.template, tried with a question and an answer: the"),
        ("data.chat.long=keep", "data.chat.long"),
        ("model.lora={targets: query}", "model.lora.targets: 'query' names no linear layer of the"),
        ("data.blocks.end_token=nothing", "data.blocks.end_token: there is no token 'nothing'"),
        (
            "serve={generation: {length: 65}}",
            "serve.generation.length: 65 tokens are more than the 64 positions",
        ),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, given: str, message: str) -> None:
    code, output = invoke("validate", spec, "--set", given)
    assert code != 0
    assert message in output


def test_weights_that_do_not_fit_are_refused(spec: str) -> None:
    path = Path("decoder/model.safetensors")
    tensors = safetensors.torch.load_file(path)
    del tensors["model.norm.weight"]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    code, output = invoke("validate", spec)
    assert code != 0
    assert "do not fit its config.json: missing: norm.weight" in output


def test_an_endpoint_with_vllm_needs_it_where_its_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    find_spec, missing = importlib.util.find_spec, {"vllm"}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in missing else find_spec(name)
    )
    decoder = write_decoder(tmp_path / "decoder")
    own, asked = (
        pretrained_spec(decoder, str(tmp_path), serve={"engine": engine})
        for engine in ("raydc", "vllm")
    )
    check_endpoint(own, None)
    with pytest.raises(ServeError) as caught:
        check_endpoint(asked, None)
    assert "pip install 'raydc[language,vllm]'" in str(caught.value)
    # Other nodes of a cluster may have it.
    check_endpoint(asked, "10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_endpoint(asked, None)
