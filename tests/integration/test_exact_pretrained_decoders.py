"""Pretrained decoders: one hash for every number of workers and through resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from decoder_folders import END_CODE, TEMPLATE, VOCABULARY, tokenizer_json, write_decoder
from ranks import Ranks
from test_exact_options import check_exact, lines_of, outcome, spec_of

from raydc.checkpoint.state import unpack_model
from raydc.checkpoint.store import CheckpointStore
from raydc.data import prepared, shards
from raydc.features import Conversations, Features, Record, Signature, token_block
from raydc.features.conversation_column import BEGINS, LEARNT
from raydc.storage import Storage

LENGTH = 16
NUM_STEPS = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"), "qwen2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Rows of documents of 1 to 20 tokens, most of which follow from the token before."""
    place = Storage(str(tmp_path_factory.mktemp("tokens")))
    block = token_block.of_tokenizer(tokenizer_json(), VOCABULARY[END_CODE], LENGTH, "none")
    fields = {"text": block.field}
    signature = Signature(
        "record", (), "", (), (), "language_modelling", (), fields, num_values=LENGTH
    )
    choose, splits = np.random.default_rng(0), {}
    for split, count in {"train": 280, "validation": 90, "test": 30}.items():
        stream = [END_CODE]
        for _ in range(count):
            first = int(choose.integers(12))
            stream += [7 + (first + step) % 12 for step in range(int(choose.integers(1, 21)))]
            stream.append(END_CODE)
        rows_BM, counts_B = block.rows(np.array(stream))
        splits[split] = (Record({"text": rows_BM}), counts_B)
    shards.write_data_set(
        place, Features(signature, "text", {"text": block}), splits, num_rows_per_shard=64
    )
    return place


def test_answers_of_conversations(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    """Logical shards of a step that have nothing to learn change nothing, whoever computes them."""
    num_codes = len(VOCABULARY)
    field = Conversations(num_codes, LENGTH, END_CODE, tokenizer_json(), TEMPLATE)
    signature = Signature(
        "record",
        (),
        "",
        (),
        (),
        "language_modelling",
        fields={"messages": field.field},
        num_values=LENGTH,
    )
    choose, splits = np.random.default_rng(0), {}
    for split, count in {"train": 200, "validation": 60, "test": 20}.items():
        first_B = choose.integers(12, size=(count, 1))
        codes_BM = (7 + (first_B + np.arange(LENGTH + 1)) % 12).astype(np.int64)
        marks_BM = np.zeros_like(codes_BM)
        # Two conversations in a row; in one row of three only the second one has an answer.
        marks_BM[:, [0, 8]] = BEGINS
        marks_BM[::3, 10:13] = LEARNT
        rows_BM = (codes_BM + num_codes * marks_BM).astype(field.dtype)
        counts_B = (marks_BM >= LEARNT).sum(1)
        splits[split] = (Record({"messages": rows_BM}), counts_B)
    data = Storage(str(tmp_path / "data"))
    features = Features(signature, "messages", {"messages": field})
    shards.write_data_set(data, features, splits, num_rows_per_shard=64)
    section = {"name": "huggingface", "path": str(folder), "dropout": 0.1}
    of_data = {"task": "language_modelling", "blocks": {"length": LENGTH}, "chat": {}}
    train = {"global_batch_size": 4, "epochs": None, "max_steps": NUM_STEPS, "learning_rate": 5e-3}
    spec = spec_of({**train, "log_every_steps": 1}, model=section, data=of_data)
    run = check_exact(ranks, spec, data, tmp_path, NUM_STEPS)
    losses = [line["loss"] for line in lines_of(run, "step")]
    assert len(losses) == NUM_STEPS
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


@pytest.mark.parametrize(
    ("model", "train"),
    [
        (
            {"gradient_checkpointing": True, "dropout": 0.1},
            {"optimizer": "adamw", "gradient_clip_norm": 1.0, "learning_rate": 5e-3},
        ),
        (
            {
                "lora": {"rank": 2, "dropout": 0.2, "targets": ["q_proj", "down_proj"]},
                "attention": "sdpa",
                "gradient_checkpointing": True,
            },
            {"precision": "bf16", "logical_shards": 6, "learning_rate": 2e-2},
        ),
    ],
    ids=["all", "lora"],
)
def test_pretrained_decoders(
    ranks: Ranks,
    data: Storage,
    folder: Path,
    tmp_path: Path,
    model: dict[str, Any],
    train: dict[str, Any],
) -> None:
    section = {"name": "huggingface", "path": str(folder), **model}
    blocks = {"length": LENGTH}
    of_data = {"task": "language_modelling", "blocks": blocks}
    spec = spec_of(train, model=section, data=of_data)
    assert 2 * -(-prepared.load(data).num_rows["train"] // 32) == NUM_STEPS
    run = check_exact(ranks, spec, data, tmp_path, NUM_STEPS)
    first, last = lines_of(run, "epoch")
    assert 1.0 < last["perplexity"] < first["perplexity"]
    # Layers that are computed again draw the same numbers, so the result is that without it.
    plain = Storage(str(tmp_path / "plain"))
    without = spec_of(train, model={**section, "gradient_checkpointing": False}, data=of_data)
    ranks.fit(1, without, plain, data)
    assert outcome(plain, NUM_STEPS) == outcome(run, NUM_STEPS)
    if "lora" not in model:
        return
    # No resume has added further tensors, or changed those of the folder.
    given = safetensors.torch.load_file(folder / "model.safetensors")
    for name in ("of_1", "resized"):
        store = CheckpointStore(Storage(str(tmp_path / name)) / "checkpoints", 1)
        weights = unpack_model(store.read(NUM_STEPS))
        kept = {
            key.replace("body.decoder.base.", "model.").replace(".base_layer", ""): one
            for key, one in weights.items()
            if "lora" not in key
        }
        assert len(weights) == len(kept) + 2 * 2 * 2
        assert kept.keys() == given.keys()
        assert all(torch.equal(one, given[key]) for key, one in kept.items())
