"""Fine-tuned encoders of texts: one hash for every number of workers, resizes and kept outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import test_exact_frozen_body as frozen
import torch
from encoder_folders import text_features, write_encoder, write_texts
from ranks import Ranks
from test_exact_options import NUM_STEPS, check_exact, lines_of, outcome, spec_of

from raydc.chaos import ledger
from raydc.checkpoint.state import unpack_model
from raydc.checkpoint.store import CheckpointStore
from raydc.data.shards import open_rows
from raydc.loop.row_order import make_groups
from raydc.storage import Storage
from raydc.tracking import events


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Storage:
    return write_texts(Storage(str(tmp_path_factory.mktemp("texts"))))


def section(folder: Path, **values: Any) -> dict[str, Any]:
    return {"name": "huggingface", "path": str(folder), **values}


def data_of(folder: Path, **values: Any) -> dict[str, Any]:
    text = {"max_tokens": 30, "tokenizer": str(folder / "tokenizer.json")}
    return {"features": {"columns": {"body": "text"}, "text": text}, **values}


@pytest.mark.parametrize(
    ("model", "train"),
    [
        # The folder has a dropout of 0.1 in all layers.
        ({}, {"optimizer": "adamw", "layer_rates": {"*.embeddings": 0.1}}),
        ({"attention": "sdpa", "dropout": 0.3, "pooling": "pooler"}, {"gradient_clip_norm": 0.5}),
        ({"freeze": ["*.embeddings", "*.layer.0"], "pooling": "cls"}, {"precision": "bf16"}),
    ],
    ids=str,
)
def test_encoders(
    ranks: Ranks,
    data: Storage,
    folder: Path,
    tmp_path: Path,
    model: dict[str, Any],
    train: dict[str, Any],
) -> None:
    spec = spec_of(
        {"learning_rate": 5e-3, **train}, model=section(folder, **model), data=data_of(folder)
    )
    run = check_exact(ranks, spec, data, tmp_path)
    first, last = lines_of(run, "epoch")
    assert last["train_loss"] < first["train_loss"]
    # The control: the random numbers of dropout are part of the result.
    if model == {}:
        plain = Storage(str(tmp_path / "plain"))
        still = spec_of(
            {"learning_rate": 5e-3, **train},
            model=section(folder, dropout=0.0),
            data=data_of(folder),
        )
        ranks.fit(1, still, plain, data)
        assert outcome(plain, NUM_STEPS) != outcome(run, NUM_STEPS)


def test_texts_of_similar_length(ranks: Ranks, data: Storage, folder: Path, tmp_path: Path) -> None:
    train = {"learning_rate": 5e-3, "group_by_length": True}
    spec = spec_of(train, model=section(folder), data=data_of(folder))
    run = check_exact(ranks, spec, data, tmp_path)
    first, last = lines_of(run, "epoch")
    assert last["train_loss"] < first["train_loss"]
    rows = open_rows(data, "train")
    groups = make_groups(spec.train, text_features().signature, lambda: rows.lengths)
    batch = spec.train.global_batch_size
    for place in (run, Storage(str(tmp_path / "resized"))):
        history = events.surviving(events.read(place, "metrics"))
        assert ledger.violations(history, spec.seed, len(rows), batch, groups=groups) == []
        # The control: they are not the rows of the plain order.
        assert len(ledger.violations(history, spec.seed, len(rows), batch)) == NUM_STEPS


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_values_and_labels_of_texts(ranks: Ranks, folder: Path, tmp_path: Path, task: str) -> None:
    data = write_texts(Storage(str(tmp_path / "data")), task)
    spec = spec_of({"learning_rate": 5e-3}, model=section(folder), data=data_of(folder, task=task))
    first, last = lines_of(check_exact(ranks, spec, data, tmp_path), "epoch")
    assert last["train_loss"] < first["train_loss"]


def test_adapters(ranks: Ranks, data: Storage, folder: Path, tmp_path: Path) -> None:
    lora = {"rank": 4, "dropout": 0.2, "targets": ["query", "value", "intermediate.dense"]}
    spec = spec_of(
        {"learning_rate": 2e-2, "gradient_clip_norm": 1.0, "precision": "bf16"},
        model=section(folder, lora=lora),
        data=data_of(folder),
    )
    run = check_exact(ranks, spec, data, tmp_path)
    first, last = lines_of(run, "epoch")
    assert last["train_loss"] < first["train_loss"]
    # No resume has added further tensors, or changed those of the folder.
    given = safetensors.torch.load_file(folder / "model.safetensors")
    for name in ("of_1", "resized"):
        found = CheckpointStore(Storage(str(tmp_path / name)) / "checkpoints", 1).read(NUM_STEPS)
        weights = unpack_model(found)
        kept = {
            key.removeprefix("body.reader.base.").replace(".base_layer", ""): one
            for key, one in weights.items()
            if "lora" not in key and "head" not in key
        }
        assert len(weights) == len(kept) + 2 * 3 * 2 + 2
        assert kept.keys() == {one for one in given if not one.startswith("pooler")}
        assert all(torch.equal(one, given[key]) for key, one in kept.items())


def test_a_frozen_encoder_is_computed_once(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    model = section(folder, freeze="body")
    expected, files = None, None
    for world_size in (1, 2, 4):
        data = write_texts(Storage(str(tmp_path / f"data_{world_size}")))
        for cache in (False, True):
            train = {"learning_rate": 0.1, "cache_frozen": cache}
            run = Storage(str(tmp_path / f"{cache}_{world_size}"))
            ranks.fit(world_size, spec_of(train, model=model, data=data_of(folder)), run, data)
            expected = expected or outcome(run, NUM_STEPS)
            assert outcome(run, NUM_STEPS) == expected, (cache, world_size)
            assert ("once" in frozen.texts(run)[0]) == cache
            assert bool(frozen.files_of(data)) == cache
        files = files or frozen.files_of(data)
        assert frozen.files_of(data) == files
    # The layers that are left are learnt on.
    first, last = lines_of(run, "epoch")
    assert last["train_loss"] < first["train_loss"]


def test_a_frozen_encoder_survives_stops_and_resizes(
    ranks: Ranks, data: Storage, folder: Path, tmp_path: Path
) -> None:
    spec = spec_of(
        {"learning_rate": 0.1}, model=section(folder, freeze="body"), data=data_of(folder)
    )
    check_exact(ranks, spec, data, tmp_path)
