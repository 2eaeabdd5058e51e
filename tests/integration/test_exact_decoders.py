"""Decoders of texts: one hash for every number of workers and through resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from test_exact_options import check_exact, lines_of, outcome, spec_of
from token_rows import DATA, MODEL, write_rows

from raydc import order
from raydc.data import prepared
from raydc.storage import Storage


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return write_rows(Storage(str(tmp_path_factory.mktemp("tokens"))))


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({}, {"optimizer": "adamw", "gradient_clip_norm": 0.5}),
        (
            {"norm": "layer", "activation": "swiglu", "tied": False, "dropout": 0.3},
            {"optimizer": "adamw", "precision": "bf16", "logical_shards": 6},
        ),
    ],
    ids=str,
)
def test_decoders(
    ranks: Ranks, data: Storage, tmp_path: Path, model: dict[str, Any], train: dict[str, Any]
) -> None:
    spec = spec_of({"learning_rate": 5e-3, **train}, model={**MODEL, **model}, data=DATA)
    num_steps = 2 * order.num_steps(prepared.load(data).num_rows["train"], 32)
    run = check_exact(ranks, spec, data, tmp_path, num_steps)
    first, last = lines_of(run, "epoch")
    assert 1.0 < last["perplexity"] < first["perplexity"]
    # The control: the random numbers of dropout are part of the result.
    if not model:
        plain = Storage(str(tmp_path / "plain"))
        still = spec_of(
            {"learning_rate": 5e-3, **train}, model={**MODEL, "dropout": 0.0}, data=DATA
        )
        ranks.fit(1, still, plain, data)
        assert outcome(plain, num_steps) != outcome(run, num_steps)
