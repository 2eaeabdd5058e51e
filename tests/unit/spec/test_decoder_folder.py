"""Folders of pretrained decoders: what is read from them, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from decoder_folders import END, END_CODE, TEMPLATE, decoder_spec, write_decoder
from encoder_folders import change_config

from raydc import spec as specs
from raydc.checkpoint import fork, resume
from raydc.errors import SpecError
from raydc.spec import ResolvedSpec


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"))


def resolved(folder: Path, data: dict[str, Any] | None = None, **model: Any) -> ResolvedSpec:
    return specs.resolve(specs.from_dict(decoder_spec(folder, data, **model)))


def test_tokenizer_and_end_are_those_of_the_folder(good: Path) -> None:
    found = resolved(good)
    assert found.data.features.text.tokenizer == str(good / "tokenizer.json")
    assert found.data.blocks.end_token == END
    assert found.model.content is not None  # type: ignore[union-attr]
    assert found.model.content.files.keys() == {  # type: ignore[union-attr]
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    # A stored spec is read without its folder.
    again = specs.to_dict(found)
    assert specs.resolve(specs.from_dict(again)) == found
    assert resolved(good, {"blocks": {"end_token": "ok"}}).data.blocks.end_token == "ok"


@pytest.mark.parametrize("given", [1, [1, 0]])
def test_the_end_is_the_first_token_that_ends_a_text(tmp_path: Path, given: Any) -> None:
    folder = change_config(write_decoder(tmp_path / "d"), eos_token_id=given)
    assert resolved(folder).data.blocks.end_token == END


@pytest.mark.parametrize(
    ("config", "generation", "further"),
    [
        # As of Llama 3: a turn ends with another token than a text.
        ({}, {"eos_token_id": [END_CODE, 4], "temperature": 0.6, "do_sample": True}, [4]),
        ({}, {"eos_token_id": 3}, [3]),
        ({}, {"eos_token_id": END_CODE}, []),
        ({"eos_token_id": [END_CODE, 4]}, {"eos_token_id": [4, END_CODE]}, []),
        ({}, {}, []),
        ({"eos_token_id": None}, {"eos_token_id": [END_CODE, 4]}, [END_CODE, 4]),
    ],
    ids=str,
)
def test_further_ends_are_those_of_the_generation_config(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any], further: list[int]
) -> None:
    folder = change_config(write_decoder(tmp_path / "d"), **config)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    found = resolved(folder)
    assert found.data.blocks.end_token == END
    assert found.model.content is not None  # type: ignore[union-attr]
    assert (found.model.content.end_codes or []) == further  # type: ignore[union-attr]
    # A run of an older raydc, which did not note them, goes on and is forked; without any, hashes
    # of its spec stay.
    before = specs.to_dict(found)
    assert before["model"]["content"].pop("end_codes", []) == further
    assert further or before == specs.to_dict(found)
    resume.refuse_other_spec(found, before)
    fork._refuse_other_model(found, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is not a decoder that can be trained here"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not a decoder"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "names code of its own (auto_map: code.Model)"),
        ({"eos_token_id": None}, "names no token that ends a text (eos_token_id: None)"),
        ({"eos_token_id": 500}, "names no token that ends a text (eos_token_id: 500)"),
        ({"eos_token_id": []}, "names no token that ends a text (eos_token_id: [])"),
        ({"eos_token_id": [[1]]}, "names no token that ends a text (eos_token_id: [[1]])"),
        ({"eos_token_id": {}}, "names no token that ends a text (eos_token_id: {})"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rope_parameters is 'dynamic', with which the positions of a document depend on",
        ),
        ({"rope_scaling": {"type": "longrope"}}, "rope_scaling is 'longrope'"),
        ({"model_type": "phi3", "rope_scaling": {"type": "su"}}, "rope_scaling is 'su'"),
    ],
    ids=str,
)
def test_configs_that_do_not_fit_are_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = change_config(write_decoder(tmp_path / "d"), **values)
    (folder / "generation_config.json").unlink()
    with pytest.raises(SpecError, match=re.escape(message)):
        resolved(folder)


def test_pickles_and_missing_tokenizers_are_refused(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "d")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SpecError) as caught:
        resolved(folder)
    assert "has its weights only in pytorch_model.bin" in str(caught.value)
    assert "has no tokenizer.json" in str(caught.value)


def test_template_and_special_tokens_are_those_of_the_folder(good: Path) -> None:
    found = resolved(good, {"chat": {}})
    assert found.data.target == "messages"
    assert found.data.chat is not None
    assert found.data.chat.template == TEMPLATE
    assert found.data.chat.special_tokens == {
        "bos_token": "<|im_start|>",
        "eos_token": END,
        "pad_token": END,
    }
    again = specs.resolve(specs.from_dict(specs.to_dict(found)))
    assert again == found
    assert resolved(good, {"chat": {"prompt": "ask"}}).data.target == "response"
    own = resolved(good, {"chat": {"template": "own", "special_tokens": {}}, "target": "talk"})
    assert (own.data.chat.template, own.data.target) == ("own", "talk")  # type: ignore[union-attr]
    assert own.data.chat.special_tokens == {}  # type: ignore[union-attr]


def test_templates_of_older_folders_and_those_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "d")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(SpecError, match=r"data.chat.template: .* has no chat template; give one"):
        resolved(folder, {"chat": {}})
    path = folder / "tokenizer_config.json"
    for given in (
        "old",
        [{"name": "tools", "template": "x"}, {"name": "default", "template": "old"}],
    ):
        path.write_text(json.dumps({"chat_template": given}))
        chat = resolved(folder, {"chat": {}}).data.chat
        assert chat is not None
        assert chat.template == "old"
    path.write_text(json.dumps({"chat_template": "{{ strftime_now('%d') }}"}))
    with pytest.raises(SpecError, match="writes today's date"):
        resolved(folder, {"chat": {}})


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"chat": {"prompt": "response"}}, "prompt", "it is data.target, which holds the answers"),
        ({"chat": {}, "format": "text"}, "format", "files of text hold no conversations"),
        ({"chat": {"long": "keep"}}, "long", "'drop' or 'cut'"),
        (
            {"chat": {}, "features": {"text": {"normalisation": "NFC"}}},
            "normalisation",
            "conversations are read as they are",
        ),
        ({"chat": {}, "task": "classification"}, "chat", "it is for task: language_modelling"),
    ],
    ids=str,
)
def test_fields_that_do_not_go_with_conversations(
    good: Path, value: dict[str, Any], path: str, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        resolved(good, value)
    assert f"{path}: {message}" in str(caught.value) or message in str(caught.value)


def test_a_decoder_from_scratch_has_no_conversations(good: Path) -> None:
    spec = decoder_spec(good, {"chat": {}})
    spec["model"] = {"name": "decoder"}
    with pytest.raises(SpecError, match=r"data\.chat: it is for task: language_modelling with a"):
        specs.resolve(specs.from_dict(spec))


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("model", "pooling", "mean", "model.pooling: it is for encoders"),
        ("model", "freeze", ["body"], "model.freeze: body is for a last layer that is new"),
    ],
)
def test_fields_that_do_not_go_with_a_decoder(
    good: Path, section: str, field: str, value: Any, message: str
) -> None:
    spec = decoder_spec(good)
    (spec[section] if section else spec)[field] = value
    with pytest.raises(SpecError, match=re.escape(message)):
        specs.resolve(specs.from_dict(spec))
