"""What commands say and refuse about a pretrained encoder before Ray starts and data is read."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
from click.testing import CliRunner
from encoder_folders import change_config, write_encoder

from raydc.cli import main

_SPEC = """name: good
storage: store
data:
  source: rows.csv
  target: label
  features: {columns: {body: text}, text: {max_tokens: 30}}
model:
  name: huggingface
  path: encoder
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec in the current folder, beside its data and its encoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def connect(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raydc.engine.connect", connect)
    (tmp_path / "rows.csv").write_text("body,label\nfree prize,a\nlunch,b\n")
    write_encoder(tmp_path / "encoder")
    path = tmp_path / "good.yaml"
    path.write_text(_SPEC)
    return path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_what_trains_and_what_is_computed_once_is_said(spec: Path, command: str) -> None:
    code, output = invoke(command, str(spec), "--set", "model.freeze=body")
    assert code == 0, output
    assert f"model starts with the weights of {spec.parent}/encoder" in output
    # The head has a weight for each of 16 numbers and a bias, for each class.
    found = re.search(r"trains 34 of ([\d,]+) parameters with two classes: body\.head\.w", output)
    assert found is not None
    assert int(found[1].replace(",", "")) > 5000
    assert "layers before body.dropout are computed once" in output
    some = "model.freeze=['*.embeddings', '*.layer.0']"
    code, output = invoke(command, str(spec), "--set", some, "--set", "data.task=regression")
    assert code == 0, output
    assert "parameters with one value: body.reader.base.encoder.layer.1.attention" in output
    assert (
        "frozen layers are computed in each epoch: the network does not go on from "
        "body.reader.base.encoder.layer.1.attention.self.query as a sequence of layers"
    ) in output


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_parameters_of_adapters_are_counted(spec: Path, command: str) -> None:
    # Query and value of two layers, from 16 numbers to 16; and the last layer.
    lora = "model.lora={rank: 2, targets: [query, value]}"
    code, output = invoke(command, str(spec), "--set", lora)
    assert code == 0, output
    trained = 2 * 2 * 2 * (16 + 16) + 2 * 16 + 2
    found = re.search(rf"trains {trained} of ([\d,]+) parameters with two classes: (.*)", output)
    assert found is not None, output
    assert found[2].startswith("adapters of 4 linear layers, body.head.weight, body.head.bias")


def test_a_problem_of_the_folder_has_its_place_in_the_file(spec: Path) -> None:
    (spec.parent / "encoder" / "model.safetensors").rename("encoder/pytorch_model.bin")
    code, output = invoke("validate", str(spec))
    assert code == 2
    assert f"error: {spec}:9:3: model.path: " in output
    assert "only in pytorch_model.bin, and a pickle may run code" in output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=gone/away/far", "gone/away/far is not a folder"),
        ("model.attention=flash", "model.attention: input should be 'eager' or 'sdpa'"),
        (
            "model.zzz=3",
            "model.zzz: unknown field; known here: attention, content, dropout, freeze",
        ),
        ("data.features.columns={}", "model.name: huggingface reads one text, and there is none"),
        (
            "data.features.columns={body: text, more: text}",
            "model.name: huggingface reads one text, and body, more are several",
        ),
        (
            "data.features.text={vocabulary: 500, max_tokens: 30}",
            "data.features.text.vocabulary: the tokenizer of the model has its own; leave it out",
        ),
        (
            "model.lora={targets: [query, c_attn]}",
            "model.lora.targets: 'c_attn' names no linear layer of the network; there are "
            "attention.self.query, attention.self.key, attention.self.value, ",
        ),
        ("model.lora={rank: 0}", "model.lora.rank: input should be greater than or equal to 1"),
        ("model.lora={r: 8}", "model.lora.r: unknown field; "),
        (
            "model={name: huggingface, path: encoder, freeze: body, lora: {}}",
            "model.freeze: it freezes all adapters of model.lora",
        ),
        (
            "sweep={space: {model.path: {choice: [encoder, other]}}}",
            "sweep.space.model.path: trials share one pretrained model",
        ),
        (
            "sweep={space: {model: {choice: [{name: huggingface, path: other}]}}}",
            "sweep.space.model: trials share one pretrained model and its tokenizer; search fields",
        ),
        (
            "sweep={space: {model: {choice: [{name: transformer}]}}}",
            "sweep.space.model: trials share one pretrained model and its tokenizer; search fields",
        ),
        (
            "sweep={space: {model.content: {choice: [null]}}}",
            "sweep.space.model.content: trials share one pretrained model",
        ),
        ("data.features.text.max_tokens=41", "41 tokens are more than the 40 positions of"),
        ("model.freeze=[bert.embeddings]", "'bert.embeddings' names no weight of this network"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(spec: Path, override: str, message: str) -> None:
    code, output = invoke("validate", str(spec), "--set", override)
    assert (code, message in output) == (2, True), output


def test_a_choice_of_models_with_a_pretrained_one_is_refused(spec: Path) -> None:
    choice = "sweep={space: {model: {choice: [{name: mlp}, {name: huggingface, path: encoder}]}}}"
    code, output = invoke("validate", str(spec), "--set", "model={name: mlp}", "--set", choice)
    assert code == 2
    assert "sweep.space.model: trials share one pretrained model and its tokenizer" in output
    # Fields of one model may be searched.
    code, output = invoke(
        "validate", str(spec), "--set", "sweep={space: {model.dropout: {uniform: [0.0, 0.3]}}}"
    )
    assert code == 0, output


def test_sizes_that_disagree_are_refused(spec: Path) -> None:
    change_config(spec.parent / "encoder", vocab_size=9)
    code, output = invoke("validate", str(spec))
    assert (code, "tokenizer: it has 14 tokens, and the network has vectors for 9" in output) == (
        2,
        True,
    ), output
    change_config(spec.parent / "encoder", vocab_size=24)
    code, output = invoke("validate", str(spec))
    assert code == 2
    assert "word_embeddings.weight [20, 16] instead of [24, 16]" in output


def test_a_missing_package_is_named_with_its_command(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    code, output = invoke("validate", str(spec))
    assert code == 2
    assert "needs transformers; install them: pip install 'raydc[language]'" in output


def test_adapters_without_peft_are_refused(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    assert invoke("validate", str(spec))[0] == 0
    code, output = invoke("validate", str(spec), "--set", "model.lora={rank: 4}")
    assert code == 2
    assert "model.lora: adapters need peft; install it: pip install 'raydc[language]'" in output


def test_weights_are_not_read_by_validate(spec: Path) -> None:
    # All that is behind the header is gone: sizes of a file that was cut are no shapes.
    path = spec.parent / "encoder" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: 8 + int.from_bytes(content[:8], "little")])
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load_file(path)
    code, output = invoke("validate", str(spec))
    assert code == 0, output


def test_other_models_do_not_import_transformers(spec: Path) -> None:
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from raydc.cli import main\n"
        "model = '{name: mlp, freeze: []}'\n"
        "for command in ('validate', 'plan'):\n"
        "    found = CliRunner().invoke(main, [command, sys.argv[1], '--set', 'model=' + model])\n"
        "    assert found.exit_code == 0, found.output\n"
        "from raydc import bundle, models\n"
        "from raydc.loop import worker\n"
        "names = ('transformers', 'tokenizers', 'peft', 'accelerate')\n"
        "print(json.dumps([name for name in names if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(spec)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
