"""One model and one column of losses, byte for byte, for every number of workers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from training import (
    check_ledger,
    picture_features,
    step_records,
    training_spec,
    weights_hash,
    write_line,
    write_pictures,
)
from transform_options import OFFERED, steps_of

from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking import events

NUM_STEPS = 14  # Two epochs of 200 rows, 32 a step: the last of each has 8.
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [16, 16], "dropout": 0.2},
    "cnn": {"name": "cnn", "channels": [4, 8], "batch_norm": True, "dropout": 0.2},
    "residual": {"builder": "exact_models:residual"},
    "transformer": {"builder": "exact_models:transformer"},
    "options": {
        "name": "cnn",
        "channels": [4, 8],
        "batch_norm": True,
        "dropout": 0.2,
        "activation": "gelu",
        "initialisation": "orthogonal",
        "freeze": ["0", "1"],
    },
    "attention": {"builder": "exact_models:transformer", "arguments": {"dropout": 0.0}},
}
ADAM: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-2}
MOMENTUM: dict[str, Any] = {
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True},
    "learning_rate": 3e-2,
}
REST: dict[str, Any] = {
    "gradient_clip_norm": 0.5,
    "lr_scheduler": {"name": "cosine", "warmup_steps": 3},
}
LAYERS: dict[str, Any] = {
    "layer_rates": {"body": 0.3},
    "l1": 1e-3,
    "optimizer": {"name": "adamw", "no_decay": ["1d"]},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return write_pictures(Storage(str(tmp_path_factory.mktemp("pictures"))))


def spec_of(model: str, train: dict[str, Any], **sections: Any) -> Spec:
    return training_spec("store", model=MODELS[model], train={"epochs": 2, **train}, **sections)


def outcome(run: Storage, step: int = NUM_STEPS) -> tuple[str, str]:
    """Hash of the weights, and what metrics.jsonl says of steps and epochs."""
    wanted = ("step", "split", "loss", "lr", "accuracy", "f1", "rmse", "train_loss")
    lines = [record for record in events.read(run, "metrics") if record["kind"] == "epoch"]
    records = [{key: record.get(key) for key in wanted} for record in [*step_records(run), *lines]]
    return weights_hash(run, step), json.dumps(records)


def check_all_world_sizes(
    ranks: Ranks, spec: Spec, data: Storage, tmp_path: Path
) -> tuple[str, str]:
    """Trains on 1 to 4 workers, which must end alike; returns how they end."""
    expected: tuple[str, str] | None = None
    for world_size in (1, 2, 3, 4):
        run = Storage(str(tmp_path / f"of_{world_size}"))
        ranks.fit(world_size, spec, run, data)
        check_ledger(run, spec)
        expected = expected or outcome(run)
        assert outcome(run) == expected, world_size
    assert expected is not None
    return expected


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ("mlp", {**ADAM, **REST, "logical_shards": 4}),
        ("cnn", {**MOMENTUM, "logical_shards": 5}),
        ("residual", {**ADAM, "logical_shards": 6, "precision": "bf16"}),
        ("transformer", {**MOMENTUM, **REST, "logical_shards": 4}),
        ("attention", {**ADAM, "logical_shards": 6, "precision": "bf16"}),
        ("options", {**ADAM, **REST, **LAYERS, "logical_shards": 4}),
    ],
)
def test_bits_are_equal_on_any_number_of_workers(
    ranks: Ranks, pictures: Storage, tmp_path: Path, model: str, train: dict[str, Any]
) -> None:
    check_all_world_sizes(ranks, spec_of(model, train), pictures, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("num_shards", [4, 6, 9])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", [ADAM, MOMENTUM], ids=["adam", "momentum"])
@pytest.mark.parametrize("rest", [{}, REST], ids=["plain", "clip_and_schedule"])
@pytest.mark.parametrize("model", MODELS)
def test_bits_are_equal_for_all_networks_and_numbers_of_workers(
    ranks: Ranks,
    pictures: Storage,
    tmp_path: Path,
    model: str,
    rest: dict[str, Any],
    optimizer: dict[str, Any],
    precision: str,
    num_shards: int,
) -> None:
    train = {**optimizer, **rest, "precision": precision, "logical_shards": num_shards}
    check_all_world_sizes(ranks, spec_of(model, train), pictures, tmp_path)


AUGMENTS: dict[str, dict[str, Any]] = {
    "by_name": {
        "crop_padding": 1,
        "transforms": [
            {"RandomRotation": {"degrees": 15, "interpolation": "bilinear"}},
            "RandAugment",
            {"RandomResizedCrop": {"size": [8, 8], "scale": [0.5, 1.0]}},
            "RandomErasing",
        ],
    },
    "mixed": {"horizontal_flip": True, "mixup": 0.4, "cutmix": 1.0},
    "of_a_user": {"transforms": [{"own_transforms:speckle_global": {"amount": 40}}]},
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_bits_are_equal_for_augmented_rows(
    ranks: Ranks, pictures: Storage, tmp_path: Path, name: str
) -> None:
    train = {**ADAM, "logical_shards": 5}
    spec = spec_of("cnn", train, data={"augment": AUGMENTS[name]})
    expected = check_all_world_sizes(ranks, spec, pictures, tmp_path)
    # The control: the rows are changed at all, and killed ranks change them alike.
    run = Storage(str(tmp_path / "plain"))
    ranks.fit(2, spec_of("cnn", train), run, pictures)
    assert outcome(run) != expected
    disturbed = Storage(str(tmp_path / "disturbed"))
    for world_size, stop_after in ((2, 5), (4, 9), (3, None)):
        ranks.fit(world_size, spec, disturbed, pictures, stop_after)
    assert outcome(disturbed) == expected


@pytest.mark.soak
@pytest.mark.parametrize("name", OFFERED)
def test_bits_are_equal_for_rows_of_every_transform(
    ranks: Ranks, pictures: Storage, tmp_path: Path, name: str
) -> None:
    shape = picture_features().signature.shape
    spec = spec_of(
        "mlp",
        {**ADAM, "logical_shards": 5},
        data={"augment": {"transforms": steps_of(name, shape)}},
    )
    check_all_world_sizes(ranks, spec, pictures, tmp_path)


def test_bits_are_equal_for_a_regression(ranks: Ranks, tmp_path: Path) -> None:
    """Rows of 28 bytes: the shards of a batch are not aligned."""
    data = write_line(Storage(str(tmp_path / "data")), num_columns=7)
    sections: dict[str, Any] = {"data": {"task": "regression"}, "checkpoint": {"every_steps": 100}}
    spec = spec_of("mlp", {**ADAM, "logical_shards": 5}, **sections)
    plain = check_all_world_sizes(ranks, spec, data, tmp_path)
    sections["data"]["augment"] = {"mixup": 0.4}
    mixed = spec_of("mlp", {**ADAM, "logical_shards": 5}, **sections)
    assert check_all_world_sizes(ranks, mixed, data, tmp_path / "mixed") != plain


@pytest.mark.parametrize(("model", "layers"), [("cnn", {}), ("options", LAYERS)])
def test_bits_are_equal_after_repeated_resizes(
    ranks: Ranks, pictures: Storage, tmp_path: Path, model: str, layers: dict[str, Any]
) -> None:
    spec = spec_of(model, {**ADAM, **REST, **layers, "logical_shards": 4})
    left_alone, resized = Storage(str(tmp_path / "left_alone")), Storage(str(tmp_path / "resized"))
    ranks.fit(4, spec, left_alone, pictures)
    for world_size, stop_after in ((2, 4), (4, 7), (3, 12), (1, None)):
        ranks.fit(world_size, spec, resized, pictures, stop_after)
    sizes = [
        record["world_size"]
        for record in events.read(resized, "events")
        if record["kind"] == "attempt_started"
    ]
    assert sizes == [2, 4, 3, 1]
    check_ledger(resized, spec)
    assert outcome(resized) == outcome(left_alone)


def test_plain_data_parallelism_is_not_exact(
    ranks: Ranks, pictures: Storage, tmp_path: Path
) -> None:
    """The control: this is what the tests above would see."""
    model = {"name": "mlp", "hidden": [16], "dropout": 0.0}
    train = {**ADAM, "epochs": 2, "logical_shards": 4, "exact": False}
    spec = training_spec("store", model=model, train=train)
    outcomes = {}
    for world_size in (1, 2, 3, 4):
        run = Storage(str(tmp_path / f"of_{world_size}"))
        ranks.fit(world_size, spec, run, pictures)
        check_ledger(run, spec)
        outcomes[world_size] = outcome(run)
    assert all(a != b for a, b in itertools.combinations(outcomes.values(), 2))
    finals = [
        step_records(Storage(str(tmp_path / f"of_{world_size}")))[-1]["loss"]
        for world_size in outcomes
    ]
    assert finals == pytest.approx([finals[0]] * 4, rel=1e-3)
