"""Exported models: other libraries load them and compute the same, or nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import small_models
import torch
from click.testing import CliRunner
from encoder_folders import make_texts, text_features, write_encoder
from required import absent
from training import training_spec

from raydc import bundle, models
from raydc.bundle import Bundle
from raydc.cli import main
from raydc.errors import CheckpointError, UsageError
from raydc.export import exported_folder, huggingface_check
from raydc.models import adapters
from raydc.registry import Registry
from raydc.storage import Storage

TEXTS = [text for text in make_texts(12, 4)[0] if text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def make(place: Path, folder: Path, task: Any = "classification", **model: Any) -> Bundle:
    """A bundle of an encoder whose last layer and adapters have random weights."""
    features = text_features(task)
    data = {"task": task, "features": {"columns": {"body": "text"}, "text": {"max_tokens": 30}}}
    section = {"name": "huggingface", "path": str(folder), **model}
    spec = training_spec("store", data=data, model=section)
    network = models.build(spec.model, features.signature, 0)
    torch.manual_seed(1)
    for name, one in network.named_parameters():
        if adapters.is_added(name) or ".head." in name:
            torch.nn.init.normal_(one, std=0.3)
    rows = [{"body": text} for text in TEXTS[:3]]
    bundle.write(Storage(str(place)), spec, features, network.state_dict(), rows, {})
    return bundle.load(Storage(str(place)))


def outputs_of(loaded: Bundle) -> Any:
    """Outputs of each text alone, without padding to more than its own length."""
    found = []
    for text in TEXTS:
        codes = loaded.features.columns["body"].apply([text], "body", ()).values_N  # type: ignore[attr-defined]
        given = {
            "body": torch.tensor(codes[None].astype(np.int64)),
            "body.length": torch.tensor([len(codes)]),
        }
        with torch.no_grad():
            found.append(loaded.model(given)[0].numpy())
    return np.array(found)


def tokens(folder: Path, text: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True)


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_a_classifier_of_transformers_has_equal_logits(
    folder: Path, tmp_path: Path, task: str
) -> None:
    from transformers import AutoModelForSequenceClassification

    loaded = make(tmp_path / "model", folder, task, pooling="pooler")
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    network = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        found = [network(**tokens(tmp_path / "out", text)).logits[0].numpy() for text in TEXTS]
    np.testing.assert_allclose(np.array(found), outputs_of(loaded), rtol=1e-6, atol=1e-6)
    if task != "regression":
        assert network.config.id2label == {0: "ham", 1: "spam"}
    # What was not trained is the same byte for byte.
    given = safetensors.torch.load_file(folder / "model.safetensors")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    for name, one in given.items():
        assert written[f"bert.{name}"].numpy().tobytes() == one.numpy().tobytes()


@pytest.mark.parametrize(
    ("kind", "pooling"), [("bert", "mean"), ("distilbert", "cls"), ("roberta", "pooler")]
)
def test_an_encoder_and_its_head_go_there_and_back(tmp_path: Path, kind: str, pooling: str) -> None:
    from transformers import AutoModel

    folder = write_encoder(tmp_path / "encoder", kind, pooling=None)
    loaded = make(tmp_path / "model", folder, pooling=pooling)
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    given = safetensors.torch.load_file(folder / "model.safetensors")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == {k for k in given if pooling == "pooler" or "pooler" not in k}
    for name, one in written.items():
        assert given[name].numpy().tobytes() == one.numpy().tobytes()
    assert AutoModel.from_pretrained(tmp_path / "out").config.model_type == kind
    # raydc itself takes the folder again, and begins with the same outputs.
    again = make(tmp_path / "again", tmp_path / "out", pooling=pooling)
    assert np.array_equal(outputs_of(again), outputs_of(loaded))


def test_sentence_transformers_gives_the_outputs(folder: Path, tmp_path: Path) -> None:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        absent("no sentence-transformers")
    loaded = make(tmp_path / "model", folder, pooling="mean")
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    network = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    found = network.encode(TEXTS, batch_size=1)
    np.testing.assert_allclose(found, outputs_of(loaded), rtol=1e-5, atol=1e-5)


def test_adapters_are_exported_beside_their_encoder(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    loaded = make(tmp_path / "model", folder, lora={"rank": 2}, pooling="mean")
    out = tmp_path / "out"
    lines = exported_folder.write(loaded, "huggingface", out, with_base=True)
    assert lines[0] == "adapters in peft's format; their encoder in base"
    given = safetensors.torch.load_file(folder / "model.safetensors")
    base = safetensors.torch.load_file(out / "base" / "model.safetensors")
    assert base.keys() == {name for name in given if "pooler" not in name}
    assert all(one.numpy().tobytes() == given[k].numpy().tobytes() for k, one in base.items())
    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), out).eval()
    head = safetensors.torch.load_file(out / "2_Dense" / "model.safetensors")
    with torch.no_grad():
        vectors = [encoder(**tokens(out, text)).last_hidden_state.mean(1)[0] for text in TEXTS]
        found = torch.stack(vectors) @ head["linear.weight"].T + head["linear.bias"]
    np.testing.assert_allclose(found.numpy(), outputs_of(loaded), rtol=1e-4, atol=1e-5)
    exported_folder.write(loaded, "huggingface", tmp_path / "small")
    assert not (tmp_path / "small" / "base").exists()
    assert not (tmp_path / "small" / "model.safetensors").exists()
    # sentence-transformers would look for the encoder in this folder.
    assert not (tmp_path / "small" / "modules.json").exists()


def test_the_shown_code_of_a_readme_runs(folder: Path, tmp_path: Path) -> None:
    for name, model in {
        "pooler": {"pooling": "pooler"},
        "mean": {"pooling": "mean"},
        "lora": {"pooling": "cls", "lora": {"rank": 2}},
    }.items():
        loaded = make(tmp_path / f"model_{name}", folder, **model)
        out = tmp_path / name
        exported_folder.write(loaded, "huggingface", out)
        code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
        names: dict[str, Any] = {"FOLDER": str(out), "BASE": str(folder)}
        shown = '["a text", "another text"]'
        assert shown in code
        exec(code.replace(shown, repr(TEXTS)), names)
        found = names["outputs"].detach().numpy()
        np.testing.assert_allclose(found, outputs_of(loaded), rtol=1e-4, atol=1e-5)


def test_nothing_is_written_if_the_outputs_differ(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make(tmp_path / "model", folder)
    compare = huggingface_check.compare

    def damage(one: Bundle, draft: Path) -> float:
        head = draft / "2_Dense" / "model.safetensors"
        tensors = safetensors.torch.load_file(head)
        tensors["linear.bias"][0] += 1.0
        safetensors.torch.save_file(tensors, head)
        return compare(one, draft)

    monkeypatch.setattr(huggingface_check, "compare", damage)
    with pytest.raises(CheckpointError, match="the exported model differs from "):
        exported_folder.write(loaded, "huggingface", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_weight_that_differs_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make(tmp_path / "model", folder)
    compare = huggingface_check.compare

    def damage(one: Bundle, draft: Path) -> float:
        tensors = safetensors.torch.load_file(draft / "model.safetensors")
        tensors["encoder.layer.1.output.dense.bias"][3] += 1e-6
        safetensors.torch.save_file(tensors, draft / "model.safetensors", {"format": "pt"})
        return compare(one, draft)

    monkeypatch.setattr(huggingface_check, "compare", damage)
    with pytest.raises(CheckpointError, match=r"weight encoder\.layer\.1\.output\.dense\.bias"):
        exported_folder.write(loaded, "huggingface", tmp_path / "out")


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a run and a registered version."""
    place = tmp_path_factory.mktemp("written") / "store"
    run = Storage(str(place)) / "runs" / "spam"
    make(run.local_path / "model", folder)
    run.write_bytes("resolved.yaml", b"")
    registry = Registry(Storage(str(place)))
    registry.register("spam", run / "model", {})
    registry.set_alias("spam", "production", 1)
    return place


@pytest.fixture
def store(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A copy of the storage, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Storage(str(shutil.copytree(written, tmp_path / "store")))


def export(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["export", *arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("given", ["spam", "spam:1", "spam:production"])
def test_a_run_or_a_version_is_exported(store: Storage, tmp_path: Path, given: str) -> None:
    code, output = export(given, "--format", "huggingface")
    assert code == 0, output
    assert "loaded again: outputs differ by" in output
    assert output.endswith(f"done {tmp_path}/spam-huggingface")
    assert (tmp_path / "spam-huggingface" / "config.json").is_file()
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    files = [path for path in (tmp_path / "spam-huggingface").rglob("*") if path.is_file()]
    assert {path.stat().st_mode for path in files} == {usual}
    # A second export takes nothing away.
    code, output = export(given, "--format", "huggingface")
    assert (code, "spam-huggingface is not empty" in output) == (2, True), output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["spam"], 2, "Missing option '--format'"),
        (["spam", "--format", "gguf"], 2, "'gguf' is not one of 'huggingface', 'torch_export', "),
        (["ham", "--format", "onnx"], 5, "there is no run 'ham' at"),
        (["spam:7", "--format", "onnx"], 7, "model spam has no version 7 There are: 1."),
        (["spam:staging", "--format", "onnx"], 7, "model spam has no alias 'staging'"),
        (["spam", "--format", "onnx", "--base"], 2, "--base has no meaning with --format onnx"),
        (["spam", "--format", "huggingface", "--base"], 2, "has no adapters --base is for models"),
        (["spam", "--format", "huggingface", "--to", "a/b"], 2, "/a is not a folder Make it, or"),
        (["spam", "--format", "huggingface", "--to", "file"], 2, "file is not a folder Name"),
    ],
    ids=str,
)
def test_a_bad_request_gets_one_message(
    store: Storage, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "file").write_text("kept")
    before = {path.name for path in tmp_path.iterdir()}
    found, output = export(*arguments)
    assert (found, message in output.replace("hint: ", "")) == (code, True), output
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_run_without_a_model_is_refused(store: Storage) -> None:
    shutil.rmtree((store / "runs" / "spam" / "model").local_path)
    code, output = export("spam", "--format", "huggingface")
    assert (code, "run 'spam' has no model yet" in output) == (5, True), output


def test_other_models_have_no_folder_of_hugging_face(tmp_path: Path) -> None:
    small_models.write_bundle(Storage(str(tmp_path / "model")), small_models.table_features())
    loaded = bundle.load(Storage(str(tmp_path / "model")))
    with pytest.raises(UsageError, match="small is a model mlp, which libraries of Hugging Face"):
        exported_folder.write(loaded, "huggingface", tmp_path / "out")
