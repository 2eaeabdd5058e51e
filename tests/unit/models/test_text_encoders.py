"""Pretrained encoders: padding never counts, and they compute what transformers computes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from encoder_folders import CLASSES, change_config, make_texts, text_features, write_encoder
from torch import Tensor, nn

from raydc import models
from raydc import spec as specs
from raydc.errors import SpecError
from raydc.features import Field, Signature
from raydc.features.record import LENGTH
from raydc.models import encoder_weights, frozen_body, text_encoders
from raydc.models.frozen_body import FrozenBody
from raydc.models.network_parts import Network
from raydc.models.pretrained_part import part_of
from raydc.models.row_tensors import RowTensors, network_inputs, to_tensors
from raydc.models.text_encoders import PooledEncoder
from raydc.spec.encoder_folder import ENCODERS, FUSED
from raydc.spec.sequence_models import HuggingFace

FEATURES = text_features()
# These take the first places of the vocabulary for padding, too.
PADDING = {"pad_token_id": 1}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(bert, tmp_path / "encoder"))


def section(folder: Path, **values: Any) -> HuggingFace:
    """A resolved section of a folder."""
    spec = specs.from_dict(
        {
            "name": "e",
            "data": {
                "source": "rows.csv",
                "features": {"columns": {"body": "text"}, "text": {"max_tokens": 30}},
            },
            "model": {"name": "huggingface", "path": str(folder), **values},
        }
    )
    model = specs.resolve(spec).model
    assert isinstance(model, HuggingFace)
    return model


def build(folder: Path, seed: int = 0, **values: Any) -> Network:
    return models.build(section(folder, **values), FEATURES.signature, seed)


def rows(count: int = 9) -> RowTensors:
    return to_tensors(FEATURES.apply({"body": make_texts(count, 3)[0]}))


def inputs_of(count: int = 9) -> dict[str, Tensor]:
    found = network_inputs(rows(count))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("kind", "attention"),
    [*((kind, "eager") for kind in ENCODERS), *((kind, "sdpa") for kind in FUSED)],
)
def test_padding_never_counts(tmp_path: Path, kind: str, attention: str) -> None:
    values = PADDING if ENCODERS[kind] else {}
    folder = write_encoder(tmp_path / kind, kind, **values)
    inputs = inputs_of()
    assert 0 in inputs["body" + LENGTH].tolist()
    for pooling in ("mean", "cls"):
        network = build(folder, attention=attention, pooling=pooling).eval()
        with torch.no_grad():
            outputs = network(inputs)
            # More padding, beyond the last position, with codes that must not be read.
            longer = nn.functional.pad(inputs["body"], (0, 20))
            is_real = torch.arange(longer.shape[1]) < inputs["body" + LENGTH][:, None]
            longer = longer.where(is_real, 5)
            assert torch.isfinite(outputs).all()
            assert torch.allclose(network({**inputs, "body": longer}), outputs, atol=1e-5)
            # A row that is read differently would answer differently.
            changed = inputs["body"].clone()
            changed[:, 1] = 7
            assert not torch.allclose(network({**inputs, "body": changed}), outputs, atol=1e-5)


def test_fused_attention_has_a_mask_whether_there_is_padding_or_not(bert: Path) -> None:
    # transformers leaves out a mask of one line for each row that masks nothing, and on a GPU
    # another kernel computes such a batch.
    network, seen = build(bert, attention="sdpa").eval(), []
    network.get_submodule("body.reader.base").register_forward_pre_hook(
        lambda _, __, given: seen.append(given["attention_mask"]), with_kwargs=True
    )
    codes = torch.ones((2, 8), dtype=torch.long)
    for lengths in ([8, 8], [8, 3]):
        network({"body": codes, "body" + LENGTH: torch.tensor(lengths)})
    assert [(one.dtype, tuple(one.shape)) for one in seen] == [(torch.bool, (2, 1, 8, 8))] * 2
    assert seen[0].all()
    assert seen[1][1, 0, :, :3].all()
    assert not seen[1][1, 0, :, 3:].any()


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_vectors_are_those_of_transformers(bert: Path, pooling: str) -> None:
    from transformers import AutoModel

    theirs = AutoModel.from_pretrained(bert, local_files_only=True).eval()
    network = build(bert, pooling=pooling).eval()
    inputs = inputs_of()
    lengths = inputs["body" + LENGTH]
    reader = network.get_submodule("body.reader")
    with torch.no_grad():
        ours = reader({name: value.long() for name, value in inputs.items()})
        for row, length in enumerate(lengths.tolist()):
            if not length:
                continue
            found = theirs(input_ids=inputs["body"][row : row + 1, :length].long())
            tokens = found.last_hidden_state
            expected = {
                "mean": tokens.mean(1),
                "cls": tokens[:, 0],
                "pooler": found.pooler_output,
            }[pooling]
            assert torch.allclose(ours[row : row + 1], expected, atol=1e-5)


def test_first_weights_are_those_of_the_folder_with_a_new_head(bert: Path) -> None:
    first, second = build(bert, 1), build(bert, 2)
    stored = safetensors.torch.load_file(bert / "model.safetensors")
    state = first.state_dict()
    for name, tensor in stored.items():
        if "pooler" not in name:
            assert torch.equal(state[f"body.reader.base.{name}"], tensor)
    assert not torch.equal(first.get_parameter("body.head.weight"), second.body.head.weight)
    assert torch.equal(build(bert, 1).body.head.weight, first.body.head.weight)
    assert first.notes[0] == f"starts with {len(stored) - 2} tensors of {bert}"
    # Without the pooler of the folder, no weight is without a gradient.
    assert first.notes[1] == "not taken from it: pooler.dense.bias, pooler.dense.weight"
    first(inputs_of()).sum().backward()
    assert all(one.grad is not None for one in first.parameters())
    assert first.body.head.out_features == len(CLASSES)


def test_files_of_a_network_with_a_head_and_with_old_names_are_read(
    bert: Path, folder: Path
) -> None:
    stored = safetensors.torch.load_file(bert / "model.safetensors")
    renamed = {
        "bert." + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): one
        for name, one in stored.items()
    }
    renamed = {name: one.half() for name, one in renamed.items()}
    renamed["cls.predictions.bias"] = torch.zeros(20)
    safetensors.torch.save_file(renamed, folder / "model.safetensors")
    network = build(folder)
    assert "cls.predictions.bias" in network.notes[1]
    for name, parameter in build(bert).named_parameters():
        found = network.get_parameter(name)
        assert found.dtype == torch.float32
        assert torch.allclose(found, parameter, atol=1e-3)


def test_a_section_without_weights_needs_no_folder(folder: Path) -> None:
    model = section(folder, pooling="pooler")
    shapes = {name: one.shape for name, one in build(folder, pooling="pooler").state_dict().items()}
    shutil.rmtree(folder)
    again = models.build(model.without_weights(), FEATURES.signature, 0)
    assert {name: one.shape for name, one in again.state_dict().items()} == shapes
    with pytest.raises(SpecError, match=r"model\.path: .* is not a folder"):
        models.build(model, FEATURES.signature, 0)


def test_a_file_that_has_changed_is_refused(folder: Path) -> None:
    model = section(folder)
    write_encoder(folder.parent / "other", seed=1)
    shutil.copy(folder.parent / "other" / "model.safetensors", folder)
    with pytest.raises(SpecError, match=r"model\.safetensors has sha256 .* the file has changed"):
        models.build(model, FEATURES.signature, 0)


def test_weights_that_do_not_fit_are_named_without_reading_them(folder: Path) -> None:
    num_codes = FEATURES.signature.fields["body"].num_codes
    encoder_weights.check_folder(section(folder), num_codes)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    gone = stored.pop("encoder.layer.0.output.dense.bias")
    stored["embeddings.word_embeddings.weight"] = torch.zeros(30, 16)
    safetensors.torch.save_file(stored, folder / "model.safetensors")
    assert gone.shape == (16,)
    expected = (
        r"model\.path: the weights of .* do not fit its config\.json: missing: "
        r"encoder\.layer\.0\.output\.dense\.bias; of a different shape: "
        r"embeddings\.word_embeddings\.weight \[30, 16\] instead of \[20, 16\]"
    )
    with pytest.raises(SpecError, match=expected):
        encoder_weights.check_folder(section(folder), num_codes)
    with pytest.raises(SpecError, match=expected):
        models.build(section(folder), FEATURES.signature, 0)


def test_a_tokenizer_of_another_vocabulary_is_refused(folder: Path) -> None:
    change_config(folder, vocab_size=13)
    message = r"text\.tokenizer: it has 14 tokens, and the network has vectors for 13"
    with pytest.raises(SpecError, match=message):
        encoder_weights.check_folder(section(folder), 14)
    with pytest.raises(SpecError, match=message):
        models.build(section(folder).without_weights(), FEATURES.signature, 0)


def test_a_config_that_transformers_refuses_is_refused(folder: Path) -> None:
    change_config(folder, num_attention_heads=3)
    with pytest.raises(SpecError, match=r"model\.path: transformers .*: .*not a multiple"):
        models.build(section(folder), FEATURES.signature, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"columns": Field("array", "float32", (3,)), "body": FEATURES.signature.fields["body"]},
        dict.fromkeys(("title", "body"), FEATURES.signature.fields["body"]),
        {"beats": Field("list", "float32", max_length=9)},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_rows_of_anything_but_one_text_are_refused(bert: Path, fields: dict[str, Field]) -> None:
    signature = Signature("record", (), "", (), (), "classification", CLASSES, fields)
    with pytest.raises(SpecError, match=r"model\.name: huggingface reads rows of one text"):
        models.build(section(bert), signature, 0)


def test_texts_beyond_the_last_position_are_refused(bert: Path) -> None:
    signature = text_features(max_tokens=41).signature
    with pytest.raises(SpecError, match=r"text\.max_tokens: 41 tokens are more than the 40 pos"):
        models.build(section(bert), signature, 0)


def test_dropout_is_that_of_the_section_or_of_the_folder(bert: Path) -> None:
    for dropout, expected in ((None, 0.1), (0.4, 0.4), (0.0, 0.0)):
        given = {} if dropout is None else {"dropout": dropout}
        found = [one.p for one in build(bert, **given).modules() if isinstance(one, nn.Dropout)]
        assert set(found) == {expected}


def test_layers_that_are_frozen_whole_have_no_dropout(bert: Path) -> None:
    network = build(bert, freeze=["*.embeddings", "*.layer.0", "*.layer.1.output.dense"]).train()
    drawing = {
        name
        for name, one in network.named_modules()
        if isinstance(one, nn.Dropout) and one.training
    }
    base = "body.reader.base.encoder.layer.1"
    assert drawing == {
        "body.dropout",
        f"{base}.attention.self.dropout",
        f"{base}.attention.output.dropout",
        f"{base}.output.dropout",
    }
    # Why such a network is computed as a whole in each epoch.
    assert frozen_body.why_no_cut(network) == (
        f"the network does not go on from {base}.attention.self.query as a sequence of layers"
    )


def test_a_frozen_encoder_is_cut_off_and_a_text_has_the_same_bits_anywhere(bert: Path) -> None:
    network = build(bert, freeze="body").train()
    x = rows(9)
    body = frozen_body.cut(network, x, False)
    assert isinstance(body, FrozenBody), body
    assert body.tail == [network.body.dropout, network.body.head]
    whole = body.outputs(x)
    assert whole.shape == (9, 16)
    for start, stop in ((0, 1), (3, 8), (8, 9)):
        assert torch.equal(body.outputs(x[start:stop]), whole[start:stop])
    network.eval()
    assert torch.allclose(body.finish(whole), network(network_inputs(x)), atol=1e-5)
    # A text is padded by its own length.
    seen: list[tuple[int, ...]] = []
    network.get_submodule("body.reader").register_forward_hook(
        lambda _, given, __: seen.append(tuple(given[0]["body"].shape))
    )
    body.outputs(x)
    assert {shape[0] for shape in seen} == {1}
    assert len({shape[1] for shape in seen}) > 1


def test_a_missing_package_is_named_with_its_command(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = section(bert)
    monkeypatch.setattr(
        text_encoders.importlib.util,
        "find_spec",
        lambda name: None if name == "transformers" else 1,
    )
    with pytest.raises(SpecError) as refused:
        models.build(model, FEATURES.signature, 0)
    assert str(refused.value.problems[0].message) == (
        "huggingface needs transformers; install them: pip install 'raydc[language]'"
    )


def test_no_code_of_a_folder_is_run(folder: Path) -> None:
    model = section(folder)
    # Even a config that was noted before, by a spec of somebody else.
    (folder / "modeling_own.py").write_text("raise SystemExit('code of the folder was run')\n")
    assert model.content is not None
    config = {**model.content.config, "auto_map": {"AutoModel": "modeling_own.Own"}}
    content = model.content.model_copy(update={"config": config})
    network = models.build(
        model.model_copy(update={"content": content}).without_weights(), FEATURES.signature, 0
    )
    encoder = next(one for one in network.modules() if isinstance(one, PooledEncoder))
    assert type(encoder.base).__module__.startswith("transformers.")


def test_layers_that_are_computed_again_give_the_same_gradients(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    gradients, calls = [], []
    for checkpoints in (False, True):
        network = build(folder, gradient_checkpointing=checkpoints, dropout=0.2).train()
        count: list[int] = []
        base: Any = part_of(network).base
        base.encoder.layer[0].attention.register_forward_hook(
            lambda *_, count=count: count.append(1)
        )
        torch.manual_seed(3)
        network(inputs_of()).square().sum().backward()
        calls.append(len(count))
        gradients.append([one.grad for one in network.parameters() if one.grad is not None])
    assert calls == [1, 2]
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_architectures_that_compute_no_layer_again_say_so(tmp_path: Path) -> None:
    found = section(write_encoder(tmp_path / "encoder", "albert"), gradient_checkpointing=True)
    with pytest.raises(SpecError, match=r"model\.gradient_checkpointing: albert cannot compute"):
        encoder_weights.check_folder(found, 14)
