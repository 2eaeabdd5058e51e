"""Pretrained decoders: one hash for every number of workers and through resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from decoder_folders import END_CODE, VOCABULARY, tokenizer_json, write_decoder
from ranks import Ranks
from test_exact_options import check_exact, lines_of, outcome, spec_of

from raydc.checkpoint.state import unpack_model
from raydc.checkpoint.store import CheckpointStore
from raydc.data import prepared, shards
from raydc.features import Features, Record, Signature, token_block
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
