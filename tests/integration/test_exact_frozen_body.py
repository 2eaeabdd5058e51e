"""The outputs of a frozen body are computed once, and the model is the same bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from training import step_records, training_spec, weights_hash, write_line, write_pictures

from raydc.data.output_store import FOLDER
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking import events

NUM_STEPS = 14
CNN: dict[str, Any] = {"name": "cnn", "channels": [4, 8], "batch_norm": True, "hidden": 12}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "head": ({**CNN, "freeze": "body"}, {}),
    # The cut comes before the dropout, which draws in each epoch.
    "dropout": ({**CNN, "dropout": 0.3, "freeze": "body"}, {}),
    "mixed": ({**CNN, "freeze": ["0", "1", "4", "5"]}, {"precision": "bf16"}),
    "attention": (
        {
            "builder": "exact_models:transformer",
            "arguments": {"dropout": 0.0},
            "freeze": "body",
        },
        {"optimizer": "sgd"},
    ),
}


def make_spec(model: dict[str, Any], train: dict[str, Any]) -> Spec:
    plain = {"epochs": 2, "logical_shards": 4, "learning_rate": 1e-2}
    return training_spec("store", model=model, train={**plain, **train})


def files_of(data: Storage) -> dict[str, str]:
    """Outputs that are kept: sha256 by split and number, over all keys."""
    found = {}
    for key in data.names(FOLDER):
        for name in data.names(f"{FOLDER}/{key}"):
            if name.endswith(".npy"):
                number, digest, _ = name.split(".")
                assert found.setdefault(f"{key}/{number}", digest) == digest
    return found


def texts(run: Storage) -> list[str]:
    return [r["text"] for r in events.read(run, "events") if r["kind"] == "frozen"]


def outcome(run: Storage) -> tuple[str, list[Any]]:
    lines = [r for r in events.read(run, "metrics") if r["kind"] == "epoch"]
    return weights_hash(run, NUM_STEPS), [
        [r.get(name) for name in ("step", "loss", "accuracy", "rmse")]
        for r in [*step_records(run), *lines]
    ]


@pytest.mark.parametrize("case", CASES)
def test_weights_are_the_same_with_and_without_kept_outputs(
    ranks: Ranks, tmp_path: Path, case: str
) -> None:
    model, train = CASES[case]
    kept = make_spec(model, train)
    computed = make_spec(model, {**train, "cache_frozen": False})
    expected, files = None, None
    for world_size in (1, 2, 4):
        # A data set of its own, so that the outputs are computed by as many workers.
        data = write_pictures(Storage(str(tmp_path / f"data_{world_size}")))
        for name, spec in (("computed", computed), ("kept", kept)):
            run = Storage(str(tmp_path / f"{name}_{world_size}"))
            ranks.fit(world_size, spec, run, data)
            expected = expected or outcome(run)
            assert outcome(run) == expected, (name, world_size)
            assert ("once" in texts(run)[0]) == (name != "computed")
            assert bool(files_of(data)) == (name != "computed")
        files = files or files_of(data)
        assert files_of(data) == files


def test_regression_of_a_table_keeps_outputs_too(ranks: Ranks, tmp_path: Path) -> None:
    data = write_line(Storage(str(tmp_path / "data")), num_columns=7)
    model = {"name": "mlp", "hidden": [16, 8], "freeze": ["1"]}
    expected = None
    for world_size in (1, 2):
        for cache in (True, False):
            spec = training_spec(
                "store",
                model=model,
                data={"task": "regression"},
                train={"epochs": 2, "logical_shards": 4, "cache_frozen": cache},
            )
            run = Storage(str(tmp_path / f"{cache}_{world_size}"))
            ranks.fit(world_size, spec, run, data)
            expected = expected or outcome(run)
            assert outcome(run) == expected
    assert files_of(data)


def test_kept_outputs_survive_stops_resizes_and_damage(ranks: Ranks, tmp_path: Path) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")))
    spec = make_spec(*CASES["head"])
    left_alone, broken = Storage(str(tmp_path / "left_alone")), Storage(str(tmp_path / "broken"))
    ranks.fit(2, spec, left_alone, data)
    (key,) = data.names(FOLDER)
    folder = data / FOLDER / key
    ranks.fit(4, spec, broken, data, 5)
    # One file is damaged, another gone.
    train, validation = (n for n in folder.names() if n.endswith(".npy"))
    content = bytearray(folder.read_bytes(train))
    content[-1] ^= 1
    folder.write_bytes(train, bytes(content))
    folder.delete(validation)
    ranks.fit(1, spec, broken, data)
    assert outcome(broken) == outcome(left_alone)
    # What is gone is computed again; a damaged file goes, and the next start computes it.
    assert validation in folder.names()
    assert train not in folder.names()
    ranks.fit(1, spec, Storage(str(tmp_path / "third")), data)
    assert train in folder.names()


def test_augmented_rows_are_computed_in_each_epoch(ranks: Ranks, tmp_path: Path) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")))
    spec = training_spec(
        "store",
        model={**CNN, "freeze": "body"},
        data={"augment": {"horizontal_flip": True}},
        train={"epochs": 1, "logical_shards": 4},
    )
    hashes = set()
    for world_size in (1, 2):
        run = Storage(str(tmp_path / f"of_{world_size}"))
        ranks.fit(world_size, spec, run, data)
        hashes.add(weights_hash(run, 7))
        assert texts(run)[0].endswith("each epoch: data.augment changes the rows in each epoch")
    assert len(hashes) == 1
    assert not files_of(data)
