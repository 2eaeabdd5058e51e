"""Options of training, each with one hash for every number of workers and through resizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from ranks import Ranks
from training import (
    training_spec,
    weights_hash,
    write_labels,
    write_line,
    write_pictures,
    write_unbalanced,
)

from raydc.chaos import ledger
from raydc.checkpoint.state import unpack_model, unpack_weights
from raydc.checkpoint.store import CheckpointStore
from raydc.data.shards import open_rows
from raydc.loop.sampler import make_sampler
from raydc.spec.metric import SCORES
from raydc.spec.sections import Spec
from raydc.storage import Storage, sha256
from raydc.tracking import events

# More than two blocks of validation rows, so that workers have different numbers of them.
NUM_ROWS = {"train": 200, "validation": 1300}
NUM_STEPS = 14


def spec_of(train: dict[str, Any], **sections: Any) -> Spec:
    return training_spec("store", train={"epochs": 2, "logical_shards": 4, **train}, **sections)


def lines_of(run: Storage, kind: str) -> list[dict[str, Any]]:
    """Surviving records of a kind, without the time at which they were written."""
    history = events.surviving(events.read(run, "metrics"))
    return [
        {name: value for name, value in record.items() if name != "time_s"}
        for record in history
        if record["kind"] == kind
    ]


def outcome(run: Storage, num_steps: int) -> tuple[str, str]:
    """Hash of the weights, and every digit of the steps and epochs."""
    lines = [*lines_of(run, "step"), *lines_of(run, "epoch")]
    return weights_hash(run, num_steps), json.dumps(lines)


def check_exact(
    ranks: Ranks, spec: Spec, data: Storage, tmp_path: Path, num_steps: int = NUM_STEPS
) -> Storage:
    """Asserts one outcome on 1, 2 and 4 workers, and through two resizes; returns a run."""
    alone = Storage(str(tmp_path / "of_1"))
    ranks.fit(1, spec, alone, data)
    expected = outcome(alone, num_steps)
    for world_size in (2, 4):
        run = Storage(str(tmp_path / f"of_{world_size}"))
        ranks.fit(world_size, spec, run, data)
        assert outcome(run, num_steps) == expected, world_size
    resized = Storage(str(tmp_path / "resized"))
    for world_size, stop_after in ((2, 6), (4, 9), (1, None)):
        ranks.fit(world_size, spec, resized, data, stop_after)
    assert outcome(resized, num_steps) == expected
    return alone


def test_all_metrics_of_a_classification(ranks: Ranks, tmp_path: Path) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS)
    names = SCORES["classification"]
    spec = spec_of({"metrics": list(names), "metric": "auroc", "learning_rate": 2e-4})
    first, last = lines_of(check_exact(ranks, spec, data, tmp_path), "epoch")
    assert spec.train.mode == "max"
    # Perplexity is 1 for a perfect model, and has no upper limit.
    assert all(0.0 < last[name] < 1.0 for name in names if name != "perplexity")
    assert last["perplexity"] > 1.0
    assert last["auroc"] > first["auroc"]


def test_all_metrics_of_a_regression(ranks: Ranks, tmp_path: Path) -> None:
    data = write_line(Storage(str(tmp_path / "data")))
    names = SCORES["regression"]
    spec = spec_of({"metrics": list(names), "metric": "mape"}, data={"task": "regression"})
    first, last = lines_of(check_exact(ranks, spec, data, tmp_path), "epoch")
    assert spec.train.mode == "min"
    assert last["rmse"] < first["rmse"]
    assert all(last[name] is not None for name in names)


def test_threshold(ranks: Ranks, tmp_path: Path) -> None:
    data = write_unbalanced(Storage(str(tmp_path / "data")), NUM_ROWS)
    spec = spec_of({"threshold": {"name": "recall", "at_least": 0.9}})
    _, last = lines_of(check_exact(ranks, spec, data, tmp_path), "epoch")
    # A class of one row in five needs a low one.
    assert 0.0 < last["threshold"] < 0.5


@pytest.mark.parametrize("each_label", [True, False])
def test_labels(ranks: Ranks, tmp_path: Path, each_label: bool) -> None:
    data = write_labels(Storage(str(tmp_path / "data")), NUM_ROWS)
    names = SCORES["multilabel"]
    loss = {"name": "binary_cross_entropy", "positive_weights": "balanced"}
    train = {"metrics": list(names), "metric": "f1", "learning_rate": 1e-3}
    if not each_label:
        loss = {"name": "focal", "class_weights": {"c": 2.0}}
    threshold = {"name": "f1", "each_label": each_label}
    spec = spec_of({**train, "loss": loss, "threshold": threshold}, data={"task": "multilabel"})
    first, last = lines_of(check_exact(ranks, spec, data, tmp_path), "epoch")
    assert all(0.0 < last[name] < 1.0 for name in names)
    assert last["auroc"] > first["auroc"]
    found = [name for name in last if name.startswith("threshold")]
    assert found == ([f"threshold:{name}" for name in "abc"] if each_label else ["threshold"])


def test_averaged_weights(ranks: Ranks, tmp_path: Path) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS)
    # Batch normalisation has buffers of floating point and one of integers.
    model = {"name": "cnn", "channels": [4], "batch_norm": True}
    spec = spec_of({"ema_decay": 0.9}, model=model)
    run = check_exact(ranks, spec, data, tmp_path)
    digests = set()
    for place in (run, *(Storage(str(tmp_path / name)) for name in ("of_2", "of_4", "resized"))):
        found = CheckpointStore(place / "checkpoints", 3).require_newest()
        averaged = unpack_model(found)
        assert averaged.keys() == unpack_weights(found).keys()
        digests.add(sha256(safetensors.torch.save(averaged)))
    assert len(digests) == 1
    assert digests != {weights_hash(run, NUM_STEPS)}


def test_sampling(ranks: Ranks, tmp_path: Path) -> None:
    data = write_unbalanced(Storage(str(tmp_path / "data")), NUM_ROWS)
    spec = spec_of({"sampling": {"name": "oversample", "max_repeats": 3}})
    rows = open_rows(data, "train")
    sampler = make_sampler(spec.train.sampling, spec.seed, 2, lambda: rows.targets)
    num_steps = 2 * -(-sampler.num_draws // 32)
    run = check_exact(ranks, spec, data, tmp_path, num_steps)
    for place in (run, Storage(str(tmp_path / "resized"))):
        history = events.surviving(events.read(place, "metrics"))
        assert ledger.violations(history, spec.seed, len(rows), 32, sampler) == []


def test_own_loss_and_metric(ranks: Ranks, tmp_path: Path) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS)
    loss = {"name": "exact_models:squared_hinge", "arguments": {"margin": 2.0}}
    own = {"metric": "exact_models:brier", "mode": "min"}
    first, last = lines_of(
        check_exact(ranks, spec_of({"loss": loss, **own}), data, tmp_path), "epoch"
    )
    assert 0.0 < last["exact_models:brier"] < first["exact_models:brier"]
