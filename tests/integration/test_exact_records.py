"""Rows of named fields: one hash for every number of workers and through resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mixed_sources
import pytest
from prepared_here import prepare_here
from ranks import Ranks
from records import write_records
from test_exact_options import NUM_STEPS, check_exact, lines_of, outcome, spec_of

from raydc.storage import Storage


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return write_records(Storage(str(tmp_path_factory.mktemp("records"))))


@pytest.mark.parametrize(
    "model",
    [
        {"name": "mlp", "hidden": [16], "dropout": 0.2},
        pytest.param({"name": "linear"}, marks=pytest.mark.soak),
        {"name": "factorisation", "width": 8, "dropout": 0.2},
        pytest.param({"name": "lstm", "width": 8, "dropout": 0.2}, marks=pytest.mark.soak),
        {"name": "gru", "width": 8, "bidirectional": False},
        {"name": "transformer", "width": 8, "heads": 2, "positions": "learned"},
        pytest.param(
            {"name": "transformer", "width": 8, "heads": 2, "depth": 1, "positions": "sinusoidal"},
            marks=pytest.mark.soak,
        ),
        {
            "name": "two_towers",
            "user": ["city", "height", "words"],
            "item": ["color", "series", "photo"],
            "width": 8,
            "hidden": [16],
            "dropout": 0.2,
        },
        {
            "name": "fusion",
            "image": {"name": "cnn", "channels": [4], "hidden": 8, "batch_norm": True},
            "sequence": {"name": "lstm", "width": 8},
            "table": [16],
            "width": 8,
            "dropout": 0.2,
        },
        pytest.param(
            {"name": "fusion", "sequence": {"name": "transformer", "width": 8, "heads": 2}},
            marks=pytest.mark.soak,
        ),
    ],
    ids=str,
)
def test_fields_of_every_kind(
    ranks: Ranks, data: Storage, tmp_path: Path, model: dict[str, Any]
) -> None:
    train = {"metrics": ["accuracy", "ndcg"], "ndcg_k": 5, "learning_rate": 1e-2}
    spec = spec_of(train, model=model, data={"query": "shop"})
    first, last = lines_of(check_exact(ranks, spec, data, tmp_path), "epoch")
    assert last["train_loss"] < first["train_loss"]
    assert 0.3 < last["ndcg"] < 1.0


def test_changed_images_beside_other_fields(ranks: Ranks, data: Storage, tmp_path: Path) -> None:
    model = {"name": "mlp", "hidden": [16]}
    steps = [{"RandomRotation": {"degrees": 20}}, "RandAugment"]
    spec = spec_of({}, model=model, data={"augment": {"transforms": steps}})
    run = check_exact(ranks, spec, data, tmp_path)
    plain = Storage(str(tmp_path / "plain"))
    ranks.fit(1, spec_of({}, model=model), plain, data)
    assert outcome(run, NUM_STEPS) != outcome(plain, NUM_STEPS)


def test_scales_encodings_and_dates(ranks: Ranks, tmp_path: Path) -> None:
    data = prepare_here(tmp_path, mixed_sources.csv(tmp_path, 300))[0]
    kinds = {column.kind for column in data.features.columns.values()}
    assert kinds >= {"date", "hashing", "ordinal", "target", "embedding", "categorical", "text"}
    num_steps = 2 * -(-data.num_rows["train"] // 32)
    spec = spec_of({"metrics": ["accuracy"], "learning_rate": 1e-2})
    first, last = lines_of(check_exact(ranks, spec, data.folder, tmp_path, num_steps), "epoch")
    assert last["train_loss"] < first["train_loss"]
