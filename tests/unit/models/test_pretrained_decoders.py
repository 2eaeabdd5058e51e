"""Pretrained decoders: what a token may look at, their weights, and what is trained of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from decoder_folders import END_CODE, VOCABULARY, decoder_spec, tokenizer_json, write_decoder
from torch import Tensor

from raydc import models
from raydc import spec as specs
from raydc.errors import SpecError
from raydc.features import Field, Signature, token_block
from raydc.features.conversation_column import BEGINS, LEARNT
from raydc.models import adapters, encoder_weights
from raydc.models.network_parts import Network
from raydc.models.pretrained_part import part_of
from raydc.spec.decoder_folder import DECODERS
from raydc.spec.sequence_models import HuggingFace

LENGTH = 16
FIRST, SECOND = [7, 9, 8, 12, 3], [10, 11, 7, 15]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"))


def section(folder: Path, **model: Any) -> HuggingFace:
    found = specs.resolve(specs.from_dict(decoder_spec(folder, **model))).model
    assert isinstance(found, HuggingFace)
    return found


def signature(length: int = LENGTH) -> Signature:
    column = token_block.of_tokenizer(tokenizer_json(), VOCABULARY[END_CODE], length, "none")
    fields = {"text": column.field}
    return Signature("record", (), "", (), (), "language_modelling", (), fields, num_values=length)


def build(folder: Path, **model: Any) -> Network:
    return models.build(section(folder, **model), signature(), 0)


def losses_of(network: Network, *rows: list[int]) -> Tensor:
    filled = [[*row, *[END_CODE] * (LENGTH + 1 - len(row))] for row in rows]
    return network({"text": torch.tensor(filled)})  # type: ignore[no-any-return]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", DECODERS)
def test_documents_have_the_losses_of_transformers_alone_and_packed(
    tmp_path: Path, kind: str, attention: str
) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_decoder(tmp_path / kind, kind)
    network = build(folder, attention=attention).eval()
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    packed = [END_CODE, *FIRST, END_CODE, *SECOND, END_CODE]
    with torch.no_grad():
        found = losses_of(network, packed)[0]
        for start, document in ((0, FIRST), (6, SECOND)):
            row = torch.tensor([[END_CODE, *document, END_CODE]])
            scores = own(row).logits[0, :-1].log_softmax(1)
            expected = -scores.gather(1, row[0, 1:, None])[:, 0]
            # The end is predicted as well, though it is the token of padding.
            torch.testing.assert_close(found[start : start + len(expected)], expected)
            alone = losses_of(network, row[0].tolist())[0, : len(expected)]
            torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("between", [END_CODE, 3])
def test_a_copy_of_a_document_sees_nothing_of_the_first_one(
    folder: Path, between: int, attention: str
) -> None:
    network = build(folder, attention=attention).eval()
    vectors: list[Tensor] = []
    base: Any = part_of(network).base
    base.get_input_embeddings().register_forward_hook(
        lambda _, __, output: (output.retain_grad(), vectors.append(output))[0]
    )
    losses_of(network, [END_CODE, *FIRST, between, *FIRST, END_CODE])[0, 6:12].sum().backward()
    reached = vectors[0].grad[0].abs().sum(1) > 0  # type: ignore[index]
    assert reached[6:12].all()
    assert bool(reached[:6].any()) == (between != END_CODE)


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_vector_of_the_end_trains_though_it_is_that_of_padding(
    tmp_path: Path, is_tied: bool
) -> None:
    network = build(write_decoder(tmp_path / "d", tie_word_embeddings=is_tied))
    base: Any = part_of(network).base
    assert base.config.pad_token_id == END_CODE
    # Scores of other tokens only, so that the gradient comes from what the end is as an input.
    losses_of(network, [END_CODE, *FIRST])[0, 1:5].sum().backward()
    without = base.get_input_embeddings().weight.grad[END_CODE].clone()
    network.zero_grad()
    losses_of(network, [END_CODE, *FIRST])[0, :5].sum().backward()
    assert not torch.equal(base.get_input_embeddings().weight.grad[END_CODE], without)
    names = [name for name in network.state_dict() if "embed_tokens" in name or "head" in name]
    assert len(names) == (1 if is_tied else 2)


def test_weights_that_a_file_lacks_are_named(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "d", tie_word_embeddings=False)
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        rest = {key: one for key, one in tensors.items() if key != name}
        safetensors.torch.save_file(rest, path, metadata={"format": "pt"})
        found = section(folder)
        short = name.removeprefix("model.")
        with pytest.raises(SpecError, match=f"do not fit its config.json: missing: {short}"):
            encoder_weights.check_folder(found, len(VOCABULARY), LENGTH)
        with pytest.raises(SpecError, match=f"missing: {short}"):
            models.build(found, signature(), 0)


@pytest.mark.parametrize(
    ("values", "length", "num_codes", "message"),
    [
        ({}, 65, 19, "65 tokens are more than the 64 positions of the network; give at most 64"),
        ({}, 64, 25, "has 25 tokens, and the network has vectors for 24"),
        ({"sliding_window": 32}, 33, 19, "more than the 32 positions"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, values: dict[str, Any], length: int, num_codes: int, message: str
) -> None:
    kind = "mistral" if values else "llama"
    found = section(write_decoder(tmp_path / "d", kind, **values))
    encoder_weights.check_folder(found, min(num_codes, 24), min(length, 32))
    with pytest.raises(SpecError, match=message):
        encoder_weights.check_folder(found, num_codes, length)
    if num_codes == len(VOCABULARY):
        with pytest.raises(SpecError, match=message):
            models.build(found, signature(length), 0)


@pytest.mark.parametrize("lora", [None, {"rank": 2, "dropout": 0.3}], ids=["all", "lora"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_gradient_checkpointing_computes_layers_twice_and_the_same_bits(
    tmp_path: Path, lora: dict[str, Any] | None, precision: torch.dtype
) -> None:
    folder = write_decoder(tmp_path / "d", "qwen2")
    gradients, calls = [], []
    for checkpoints in (False, True):
        network = build(folder, gradient_checkpointing=checkpoints, dropout=0.2, lora=lora).train()
        base: Any = part_of(network).base
        count: list[int] = []
        base.layers[0].self_attn.register_forward_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(5)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            losses = losses_of(network, [END_CODE, *FIRST, END_CODE, *SECOND])
        losses.sum().backward()
        calls.append(len(count))
        gradients.append([one.grad for one in network.parameters() if one.requires_grad])
    assert calls == [1, 2]
    assert len(gradients[0]) > 2
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("is_tied", [True, False])
def test_adapters_alone_train_and_begin_without_effect(tmp_path: Path, is_tied: bool) -> None:
    folder = write_decoder(tmp_path / "d", tie_word_embeddings=is_tied)
    plain, network = build(folder).eval(), build(folder, lora={"rank": 2, "dropout": 0.5}).eval()
    row = [END_CODE, *FIRST, END_CODE]
    assert torch.equal(losses_of(plain, row), losses_of(network, row))
    trained = [name for name, one in network.named_parameters() if one.requires_grad]
    assert all(map(adapters.is_added, trained))
    # Seven linear layers in each of two layers of the decoder.
    assert len(trained) == 2 * 7 * 2
    frozen = build(folder, lora={"rank": 2, "targets": "q_proj"}, freeze=["*.layers.0"])
    names = [name for name, one in frozen.named_parameters() if one.requires_grad]
    assert len(names) == 2
    assert all("layers.1.self_attn.q_proj.lora_" in name for name in names)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_conversations_have_the_losses_that_they_have_alone(
    folder: Path, attention: str
) -> None:
    """Marks tell where one begins: its first token is one that others have in the middle."""
    from transformers import AutoModelForCausalLM

    begins, learnt, count = 24, 48, len(VOCABULARY)
    field = Field("array", "uint8", (LENGTH + 1,), count, end_code=END_CODE, has_marks=True)
    assert (begins, learnt) == (24 * BEGINS, 24 * LEARNT)
    marked = replace(signature(), fields={"text": replace(field, num_codes=24)})
    network = models.build(section(folder, attention=attention), marked, 0).eval()
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    filler = END_CODE + begins
    # The second token and what is behind the third are learnt.
    talks = [[0, 7, 0, 9, END_CODE], [0, 8, END_CODE, 0, 10, 11, END_CODE]]
    rows = []
    for talk in talks:
        codes = [code + (learnt if place in (1, 4, 5, 6) else 0) for place, code in enumerate(talk)]
        rows.append([codes[0] + begins, *codes[1:]])
    packed = torch.tensor([[*rows[0], *rows[1], *[filler] * 5]])
    alone = torch.tensor([[*row, *[filler] * (LENGTH + 1 - len(row))] for row in rows])
    with torch.no_grad():
        found, apart = network({"text": packed})[0], network({"text": alone})
        expected = []
        for talk in talks:
            scores = own(torch.tensor([talk])).logits[0].log_softmax(1)
            places = [place for place in (1, 4, 5, 6) if place < len(talk)]
            expected.append([-float(scores[place - 1, talk[place]]) for place in places])
    assert [len(one) for one in expected] == [2, 4]
    # Those that are learnt come first, and are all that is not zero.
    torch.testing.assert_close(
        found[:6], torch.tensor([*expected[0], *expected[1]]), atol=1e-5, rtol=1e-5
    )
    for row, one in enumerate(expected):
        torch.testing.assert_close(apart[row, : len(one)], torch.tensor(one), atol=1e-5, rtol=1e-5)
    assert not found[6:].any()
    assert not apart[0, 2:].any()


def test_layers_of_gpt2_get_adapters_though_their_weights_lie_by_input(tmp_path: Path) -> None:
    """A layer of GPT-2 with an adapter computes W x + B A x, with its own form of W."""
    from transformers.pytorch_utils import Conv1D

    lora = {"rank": 2, "alpha": 4, "targets": ["c_attn", "mlp.c_proj"]}
    found = section(write_decoder(tmp_path / "d", "gpt2"), lora=lora)
    network = models.build(found, signature(), 0).eval()
    adapted = {name: one for name, one in network.named_modules() if hasattr(one, "lora_A")}
    assert [name.rsplit("base.", 1)[1] for name in adapted] == [
        f"h.{layer}.{part}" for layer in range(2) for part in ("attn.c_attn", "mlp.c_proj")
    ]
    for layer in adapted.values():
        assert isinstance(layer.base_layer, Conv1D)
        low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.nn.init.normal_(high)
        x = torch.randn(3, low.shape[1])
        with torch.no_grad():
            expected = layer.base_layer(x) + 2.0 * x @ low.T @ high.T
            torch.testing.assert_close(layer(x), expected)


def test_layers_that_get_no_adapters_are_said(tmp_path: Path) -> None:
    found = section(write_decoder(tmp_path / "d", "gpt2"), lora={"targets": ["wte"]})
    message = r"'wte' names no linear layer of the network; there are attn\.c_attn, attn\.c_proj"
    with pytest.raises(SpecError, match=message):
        models.build(found, signature(), 0)


def test_weights_of_half_precision_train_in_full_precision(tmp_path: Path) -> None:
    """Steps below the precision of bf16 move the weights."""
    folder = write_decoder(tmp_path / "d")
    path = folder / "model.safetensors"
    halved = {name: one.bfloat16() for name, one in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(halved, path, metadata={"format": "pt"})
    network = build(folder)
    weight = network.get_parameter("body.decoder.base.norm.weight")
    before = weight.detach().clone()
    assert {one.dtype for one in network.parameters()} == {torch.float32}
    assert torch.equal(before, halved["model.norm.weight"].float())
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for _ in range(100):
        weight.grad = torch.full_like(weight, 1e-5)
        optimizer.step()
    # One part in a thousand, and each step is a hundredth of that.
    torch.testing.assert_close(
        before - weight.detach(), torch.full_like(weight, 1e-3), rtol=0.05, atol=0
    )
