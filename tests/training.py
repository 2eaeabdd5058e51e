"""Small data sets and specs to train on them: for tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np

from raydc import order, train
from raydc import spec as specs
from raydc.data import prepared, shards
from raydc.features import Features, Image, Numeric, Signature
from raydc.loop.fault_injection import FaultInjector
from raydc.spec import ResolvedSpec
from raydc.storage import Storage, sha256
from raydc.tracking import events

NUM_ROWS = {"train": 200, "validation": 60, "test": 40}
CLASSES = ("a", "b", "c")


def picture_features() -> Features:
    """Grey images of 8x8 to three classes."""
    signature = Signature("image", (1, 8, 8), "uint8", (100.0,), (60.0,), "classification", CLASSES)
    return Features(signature, "label", {"image": Image(8, 8, 1)})


class StopsAfter(FaultInjector):
    """Raises an error before the step that follows `step` completed steps; never if it is None.

    Args:
        step: Completed steps.
        error: What is raised; a KeyboardInterrupt passes every handler of errors, like a kill.
    """

    def __init__(self, step: int | None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.planned = []
        self._after = step
        self._error = error

    def before_step(self, step: int) -> None:
        if step - 1 == self._after:
            raise self._error

    def restored(self, step: int) -> None:
        """Continues."""

    def reached(self, place: str) -> None:
        """Continues."""


def write_pictures(
    folder: Storage, seed: int = 0, num_rows: dict[str, int] | None = None
) -> Storage:
    """A prepared data set of noisy images whose brightest third is their class."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, count in (num_rows or NUM_ROWS).items():
        y = rng.integers(0, 3, count)
        x = rng.integers(0, 120, (count, 1, 8, 8))
        for row, label in enumerate(y):
            x[row, 0, 2 * label : 2 * label + 3] += 60
        splits[split] = (x.astype(np.uint8), y.astype(np.int64))
    shards.write_data_set(folder, picture_features(), splits, num_rows_per_shard=64)
    return folder


def write_line(folder: Storage, num_columns: int = 2) -> Storage:
    """A prepared data set of a regression.

    The price is 300 + 100 * (0.5 a - b), and other columns do not matter.
    """
    signature = Signature("vector", (num_columns,), "float32", (), (), "regression")
    columns = {name: Numeric(0.0, 0.0, 1.0) for name in "abcdefghij"[:num_columns]}
    features = Features(signature, "price", columns, target_mean=300.0, target_scale=100.0)
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in NUM_ROWS.items():
        x = rng.normal(size=(count, num_columns)).astype(np.float32)
        splits[split] = (x, (x[:, :2] @ np.array([0.5, -1.0], dtype=np.float32)))
    shards.write_data_set(folder, features, splits)
    return folder


def write_unbalanced(folder: Storage, num_rows: dict[str, int] | None = None) -> Storage:
    """A prepared data set of two overlapping classes, one row in five of the second."""
    signature = Signature("vector", (2,), "float32", (), (), "classification", ("no", "yes"))
    columns = {name: Numeric(0.0, 0.0, 1.0) for name in "ab"}
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (num_rows or NUM_ROWS).items():
        y = (rng.random(count) < 0.2).astype(np.int64)
        x = rng.normal(size=(count, 2)) + 0.8 * y[:, None]
        splits[split] = (x.astype(np.float32), y)
    golden = [{"a": 0.1 * row, "b": -0.2 * row} for row in range(4)]
    shards.write_data_set(folder, Features(signature, "y", columns), splits, golden)
    return folder


def write_labels(folder: Storage, num_rows: dict[str, int] | None = None) -> Storage:
    """A prepared data set of three labels, of which a row has any number."""
    signature = Signature("vector", (3,), "float32", (), (), "multilabel", CLASSES)
    columns = {name: Numeric(0.0, 0.0, 1.0) for name in "xyz"}
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (num_rows or NUM_ROWS).items():
        marks = (rng.random((count, 3)) < (0.5, 0.3, 0.1)).astype(np.uint8)
        x = rng.normal(size=(count, 3)) + marks @ [[1.5, 0, 0.5], [0, 1.5, 0], [0.5, 0, 1.5]]
        splits[split] = (x.astype(np.float32), marks)
    golden = [{"x": 0.1 * row, "y": -0.2 * row, "z": 0.3 * row} for row in range(4)]
    features = Features(signature, "tags", columns)
    shards.write_data_set(folder, features, splits, golden, num_rows_per_shard=64)
    return folder


def training_spec(storage: str, **sections: Any) -> ResolvedSpec:
    """A resolved spec of a short run in the calling process, with `sections` merged in."""
    value: dict[str, Any] = {
        "name": "short",
        "storage": storage,
        "data": {"source": "rows.csv"},
        "model": {"name": "mlp", "hidden": [16], "dropout": 0.2},
        "train": {
            "epochs": 3,
            "global_batch_size": 32,
            "log_every_steps": 3,
            "learning_rate": 1e-2,
        },
        "scaling": {"num_workers": 0},
        "checkpoint": {"every_steps": 4},
    }
    for name, section in sections.items():
        fits = isinstance(section, dict) and name != "model"
        value[name] = {**value.get(name, {}), **section} if fits else section
    return specs.resolve(specs.from_dict(value))


def weights_hash(run_folder: Storage, step: int) -> str:
    """sha256 of the weights in a checkpoint."""
    return sha256(run_folder.read_bytes(f"checkpoints/step_{step:08d}/model.safetensors"))


def step_records(run_folder: Storage) -> list[dict[str, Any]]:
    """Records of the steps that the final weights have seen."""
    history = events.surviving(events.read(run_folder, "metrics"))
    return [record for record in history if record["kind"] == "step"]


def event_kinds(run_folder: Storage) -> list[str]:
    return [record["kind"] for record in events.read(run_folder, "events")]


def check_ledger(
    run_folder: Storage, spec: ResolvedSpec, num_rows: int = NUM_ROWS["train"]
) -> None:
    """Asserts that every row was used exactly once per epoch, in the order of the seed.

    Only the history that the final weights have seen counts.
    """
    batch_size = spec.train.global_batch_size
    per_epoch = order.num_steps(num_rows, batch_size)
    records = step_records(run_folder)
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    for record in records:
        epoch, step = divmod(record["step"] - 1, per_epoch)
        ids = order.batch_rows(spec.seed, epoch, step, num_rows, batch_size)
        assert (record["rows"], record["row_fingerprint"]) == (
            len(ids),
            str(order.fingerprint(ids)),
        )
        assert record["epoch"] == epoch + 1
    whole = order.fingerprint(np.arange(num_rows))
    for epoch in range(len(records) // per_epoch):
        lines = records[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sum(line["rows"] for line in lines) == num_rows
        assert sum(int(line["row_fingerprint"]) for line in lines) % 2**64 == whole


def train_one_epoch(
    runs: Storage, data: prepared.Prepared, name: str = "first", **sections: Any
) -> tuple[ResolvedSpec, Storage]:
    """Trains a run of one epoch and leaves it as the pipeline does; returns its spec and folder."""
    spec, folder = training_spec("x", name=name, train={"epochs": 1}, **sections), runs / name
    folder.write_json("resolved.yaml", specs.to_dict(spec))
    train.run(spec, data, folder, lambda line: None)
    return spec, folder


def resume_run(
    spec: ResolvedSpec, data: prepared.Prepared, folder: Storage, **arguments: Any
) -> list[str]:
    """Resumes a run; returns the lines that it reports."""
    lines: list[str] = []
    train.run(spec, data, folder, lines.append, resume=True, **arguments)
    return lines
