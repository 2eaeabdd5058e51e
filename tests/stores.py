"""Storages made by hand, file by file as raydc 0.1 writes them, for the tests of the inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from raydc import checksummed_folder
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking import events

DATA_HASH = "0123456789ab" + "0" * 52


def make_run(
    storage: Storage,
    name: str = "digits",
    finished: bool = True,
    data_hash: str | None = DATA_HASH,
    spec_name: str | None = None,
    weights: bytes = b"weights",
) -> Storage:
    """A run of three steps with a checkpoint, a model and a TensorBoard file."""
    folder = storage / "runs" / name
    folder.write_bytes("resolved.yaml", yaml.safe_dump({"name": spec_name or name}).encode())
    log = events.EventLog(folder, "events")
    facts = {"data_hash": data_hash} if data_hash else {}
    log.write(kind="run_started", time_s=100.0, **facts)
    if finished:
        log.write(kind="run_finished", time_s=200.0, step=3)
    metrics = events.EventLog(folder, "metrics")
    metrics.write(kind="start", step=0)
    for step in range(1, 4):
        metrics.write(kind="step", split="train", step=step, epoch=1, loss=1.0 / step)
    metrics.write(kind="epoch", split="validation", step=3, epoch=1, loss=0.4, accuracy=0.9)
    checksummed_folder.write_checksummed(
        folder / "checkpoints/step_00000003", {"model.safetensors": weights}, {"step": 3}
    )
    files = {"model.safetensors": weights, "facts.json": b"{}"}
    checksummed_folder.write_checksummed(folder / "model", files, {"kind": "bundle"})
    folder.write_bytes("tensorboard/events.out.tfevents.1", b"scalars")
    return folder


def make_data_set(storage: Storage, name: str = "digits-0123456789ab", **facts: Any) -> Storage:
    """A complete data set of ten rows."""
    folder = storage / "data" / name
    folder.write_bytes("train-00000.arrow", b"rows")
    rows = {"train": 8, "validation": 1, "test": 1}
    manifest = {"format": 1, "data_hash": DATA_HASH, "rows": rows, "sources": [{"name": "a.csv"}]}
    folder.write_json(checksummed_folder.MANIFEST, {**manifest, "files": {}, **facts})
    return folder


def make_other_versions(storage: Storage, count: int) -> None:
    """Registers further versions of `digits`, each with weights of its own."""
    for number in range(count):
        made = storage / f"made-{number}"
        files = {"model.safetensors": b"weights %d" % number, "facts.json": b"{}"}
        checksummed_folder.write_checksummed(made, files, {"kind": "bundle"})
        Registry(storage).register("digits", made, {"run": "digits"})


def make_version(storage: Storage, run: str = "digits", model: str = "digits") -> int:
    """Registers the model of a run."""
    return Registry(storage).register(model, storage / "runs" / run / "model", {"run": run})


def make_storage(path: Path) -> Storage:
    """One finished run with its data set, and its model as version 1 with alias `production`."""
    storage = Storage(str(path))
    make_run(storage)
    make_data_set(storage)
    make_version(storage)
    Registry(storage).set_alias("digits", "production", 1, "ada", "first")
    return storage
