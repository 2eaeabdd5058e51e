"""Passes over the validation rows: of texts of similar length, and no larger than in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_folders import write_encoder, write_texts
from training import training_spec

from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.features.record import bucket_length
from raydc.loop.assembly import assemble
from raydc.loop.group import Alone
from raydc.loop.validation import compute_scores
from raydc.models.pretrained_part import part_of
from raydc.storage import Storage


def scores_of(folder: Path, data: Storage, **train: Any) -> tuple[dict[str, Any], list[Any]]:
    """Scores of the validation rows, and the shapes of the passes in which they were computed."""
    text = {"max_tokens": 30, "tokenizer": str(folder / "tokenizer.json")}
    spec = training_spec(
        str(folder),
        train=train,
        model={"name": "huggingface", "path": str(folder)},
        data={"features": {"columns": {"body": "text"}, "text": text}},
    )
    loaded = prepared.load(data)
    parts = assemble(spec, loaded, Alone())
    shapes: list[Any] = []
    part_of(parts.network).register_forward_pre_hook(
        lambda _, given: shapes.append(tuple(given[0]["body"].shape))
    )
    rows = parts.validation_rows
    return compute_scores(parts.step, rows, loaded.features, Alone(), spec.train), shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return write_texts(Storage(str(tmp_path_factory.mktemp("texts"))))


def test_texts_of_one_length_share_a_pass(folder: Path, data: Storage) -> None:
    _, shapes = scores_of(folder, data)
    padded = [bucket_length(one) for one in open_rows(data, "validation").lengths.tolist()]
    assert shapes == [(padded.count(length), length) for length in sorted(set(padded))]
    assert len(shapes) > 3


def test_scores_are_those_of_the_rows_in_their_order(folder: Path, data: Storage) -> None:
    found, _ = scores_of(folder, data)
    alone, shapes = scores_of(folder, data, micro_batch_size=1)
    assert [rows for rows, _ in shapes] == [1] * 60
    assert found["accuracy"] == alone["accuracy"]
    np.testing.assert_allclose(found["loss"], alone["loss"], rtol=1e-5)


def test_a_pass_has_no_more_rows_than_one_of_the_training(folder: Path, data: Storage) -> None:
    _, shapes = scores_of(folder, data, micro_batch_size=7)
    plain = scores_of(folder, data)[1]
    # Texts of one length are cut evenly.
    assert len(shapes) == sum(-(-rows // 7) for rows, _ in plain) > len(plain)
    assert max(rows for rows, _ in shapes) <= 7
    assert sum(rows for rows, _ in shapes) == 60
