"""What a spec notes of the folder of a pretrained encoder, and what it refuses there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from encoder_folders import change_config, write_encoder

from raydc import spec as specs
from raydc.checkpoint import resume
from raydc.errors import RunError, SpecError
from raydc.spec import ResolvedSpec
from raydc.spec.encoder_folder import positions_of
from raydc.spec.model_files import file_sha256
from raydc.spec.sequence_models import HuggingFace


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "encoder"))


def resolve(path: Path | str, text: dict[str, Any] | None = None, **model: Any) -> ResolvedSpec:
    features = {"columns": {"body": "text"}, "text": {"max_tokens": 30, **(text or {})}}
    return specs.resolve(
        specs.from_dict(
            {
                "name": "e",
                "data": {"source": "rows.csv", "features": features},
                "model": {"name": "huggingface", "path": str(path), **model},
            }
        )
    )


def refusal(path: Path | str, **values: Any) -> str:
    with pytest.raises(SpecError) as refused:
        resolve(path, **values)
    [problem] = refused.value.problems
    return f"{problem.path}: {problem.message}"


def model_of(spec: ResolvedSpec) -> HuggingFace:
    assert isinstance(spec.model, HuggingFace)
    return spec.model


def test_content_of_the_folder_is_part_of_the_spec(folder: Path) -> None:
    spec = resolve(folder)
    model = model_of(spec)
    assert model.content is not None
    assert model.content.config["hidden_size"] == 16
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    assert model.content.files == {name: file_sha256(folder / name) for name in names}
    assert (model.pooling, model.attention) == ("mean", "eager")
    assert spec.data.features.text.tokenizer == str(folder / "tokenizer.json")
    # Notes of the library, such as its version, are no part of the network.
    assert not {"transformers_version", "architectures", "dtype"} & model.content.config.keys()
    change_config(folder, hidden_dropout_prob=0.5)
    assert model_of(resolve(folder)).content != model.content


def test_a_stored_spec_does_not_need_the_folder(folder: Path) -> None:
    spec = resolve(folder)
    shutil.rmtree(folder)
    assert specs.resolve(specs.from_dict(specs.to_dict(spec))) == spec
    assert not model_of(spec).without_weights().reads_folder
    assert model_of(spec).reads_folder


def test_a_relative_path_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert model_of(resolve("encoder")).path == str(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not an encoder that can be fine-tuned here"),
        ({"model_type": None}, "model_type None is not an encoder"),
        ({"is_decoder": True}, "is_decoder is true, and only encoders"),
        (
            {"auto_map": {"AutoModel": "modeling_own.Own"}},
            "names code of its own (auto_map: modeling_own.Own), and code of a model is never run",
        ),
        ({"position_embedding_type": "relative_key"}, "'relative_key' is not part of"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    found = refusal(change_config(folder, **values))
    assert found.startswith("model.path: ")
    assert f"{folder}/config.json" in found
    assert message in found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": ["bert"]}, "model_type ['bert'] is not a name"),
        ({"max_position_embeddings": None}, "max_position_embeddings None is not a whole number"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings 'many' is not a whole"),
        ({"vocab_size": 0}, "vocab_size 0 is not a whole number above 0"),
        ({"pad_token_id": -1}, "pad_token_id -1 is not one of the"),
        ({"pad_token_id": 10**6}, "pad_token_id 1000000 is not one of the"),
        ({"auto_map": ["own.py"]}, "code of its own (auto_map: ['own.py'])"),
    ],
)
def test_a_value_of_the_config_that_makes_no_sense_is_named(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    change_config(folder, **values)
    assert message in refusal(folder)


@pytest.mark.parametrize("weight_map", [None, ["a"], {"a": ["x.safetensors"]}])
def test_an_index_without_names_of_files_is_refused(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "does not say in which file each tensor is" in refusal(folder)


@pytest.mark.parametrize(
    "entry", ["../model-2.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "model.bin"]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, entry: str) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": entry}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = refusal(folder)
    assert found.startswith(f"model.path: {folder}/model.safetensors.index.json names {entry!r}")
    assert "copy all files of the model again" in found


@pytest.mark.parametrize("given", [3, ["mean", ["x"]]])
def test_pooling_that_is_no_name_is_refused(folder: Path, given: Any) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": given}))
    assert "which is not supported; choose mean, cls or pooler" in refusal(folder)


def test_positions_begin_behind_the_code_of_padding() -> None:
    config = {"model_type": "roberta", "max_position_embeddings": 16}
    assert positions_of(config) == 14
    assert positions_of({**config, "pad_token_id": 3}) == 12
    assert positions_of({**config, "model_type": "bert", "pad_token_id": 3}) == 16


def test_a_folder_with_pickles_only_is_refused_by_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = refusal(folder)
    assert f"{folder} has its weights only in pytorch_model.bin, and a pickle may run" in found
    assert "save_pretrained(FOLDER) writes safetensors" in found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "has no config.json; give the folder of a model"),
        ("tokenizer.json", "has no tokenizer.json; AutoTokenizer"),
        ("model.safetensors", "has no model.safetensors; copy all files"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    assert refusal(folder).startswith(f"model.path: {folder} {message}")


def test_a_damaged_file_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "1_Pooling")
    (folder / "model.safetensors").write_bytes(b"\x10" + b"\0" * 20)
    assert f"{folder}/model.safetensors is not a file of safetensors" in refusal(folder)
    (folder / "config.json").write_text("[")
    assert f"{folder}/config.json cannot be read" in refusal(folder)


def test_several_problems_are_told_at_once(folder: Path) -> None:
    change_config(folder, model_type="t5")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SpecError) as refused:
        resolve(folder)
    assert len(refused.value.problems) == 2


@pytest.mark.parametrize(
    ("kind", "positions", "most"), [("bert", 40, 40), ("roberta", 40, 38), ("mpnet", 40, 38)]
)
def test_texts_beyond_the_last_position_are_refused(
    folder: Path, kind: str, positions: int, most: int
) -> None:
    change_config(folder, model_type=kind, max_position_embeddings=positions)
    resolve(folder, text={"max_tokens": most})
    assert refusal(folder, text={"max_tokens": most + 1}) == (
        f"data.features.text.max_tokens: {most + 1} tokens are more than the {most} positions of "
        f"{folder}; give at most {most}"
    )


@pytest.mark.parametrize(
    ("pooling", "config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, {}, "mean"),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, {}, "cls"),
        ({"pooling_mode": "mean"}, {}, "mean"),
        (None, {}, "pooler"),
        (None, {"classifier_pooling": "mean"}, "mean"),
        (None, {"model_type": "electra"}, "cls"),
    ],
)
def test_pooling_is_that_of_the_folder_or_of_the_architecture(
    folder: Path, pooling: dict[str, Any] | None, config: dict[str, Any], expected: str
) -> None:
    shutil.rmtree(folder / "1_Pooling")
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    change_config(folder, **config)
    assert model_of(resolve(folder)).pooling == expected
    assert model_of(resolve(folder, pooling="cls")).pooling == "cls"


def test_pooling_that_does_not_exist_is_refused(folder: Path) -> None:
    modes = {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    found = refusal(folder)
    assert found.startswith("model.pooling: ")
    assert "says max_tokens, mean_tokens, which is not supported; choose mean, cls" in found
    change_config(folder, model_type="distilbert")
    assert refusal(folder, pooling="pooler") == (
        "model.pooling: distilbert has no pooler; choose mean or cls"
    )


def test_fused_attention_is_refused_where_there_is_none(folder: Path) -> None:
    change_config(folder, model_type="mpnet")
    assert refusal(folder, attention="sdpa") == (
        "model.attention: mpnet cannot use sdpa here; choose eager"
    )


def test_weights_in_several_files_are_all_noted(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    content = model_of(resolve(folder)).content
    assert content is not None
    assert list(content.files) == ["config.json", "tokenizer.json", "model-1.safetensors"]
    (folder / "model-1.safetensors").unlink()
    assert "lacks model-1.safetensors, which model.safetensors.index.json names" in refusal(folder)


def test_a_name_on_the_hub_is_downloaded_and_its_commit_noted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = folder.rename(folder.parent / ("a1" * 20))
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        # Neither code nor pickles come to this machine.
        assert all(
            one.endswith((".json", ".jinja", ".safetensors")) for one in options["allow_patterns"]
        )
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    spec = resolve("someone/small-encoder")
    content = model_of(spec).content
    assert content is not None
    assert (model_of(spec).path, content.revision) == ("someone/small-encoder", commit.name)
    assert spec.data.features.text.tokenizer == str(commit / "tokenizer.json")
    assert asked[0] == ("someone/small-encoder", None)


def test_a_new_commit_or_another_cache_of_equal_files_may_be_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder.rename(tmp_path / ("a1" * 20))
    second = Path(shutil.copytree(first, tmp_path / "elsewhere" / ("b2" * 20)))
    newest = first
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(newest))
    before = specs.to_dict(resolve("someone/small-encoder"))
    newest = second
    resume.refuse_other_spec(resolve("someone/small-encoder"), before)
    (second / "tokenizer.json").write_text((second / "tokenizer.json").read_text() + " ")
    after = resolve("someone/small-encoder")
    assert model_of(after).content is not None
    with pytest.raises(RunError, match=r"model\.content\.files\.tokenizer\.json: ") as refused:
        resume.refuse_other_spec(after, before)
    assert f"data.features.text.tokenizer: '{first}/tokenizer.json' then" in str(refused.value)
    # The hash of the data set tells whether a tokenizer that is gone had the same content.
    shutil.rmtree(first)
    with pytest.raises(RunError) as refused:
        resume.refuse_other_spec(resolve("someone/small-encoder"), before)
    assert "features.text.tokenizer" not in str(refused.value)


def test_what_is_neither_a_folder_nor_on_the_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert refusal("some/encoder").endswith(
        "some/encoder is not a folder, and some/encoder cannot be downloaded from the hub: no "
        "route to host"
    )
    # A path is never taken for a name.
    assert refusal(tmp_path / "gone") == f"model.path: {tmp_path}/gone is not a folder"
