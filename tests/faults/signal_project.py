"""A small project for commands that are disturbed, and what must hold of its store afterwards."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml
from signalled import started

from raydc import bundle, checksummed_folder
from raydc.data import prepared
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking import endpoint_record, lease

NAME, NUM_ROWS = "signalled", 600


def write_rows(folder: Path) -> Path:
    rng = random.Random(0)
    rows = [f"{rng.uniform(-1, 1):.4f},{rng.uniform(-1, 1):.4f}" for _ in range(NUM_ROWS)]
    lines = [f"{row},{'no' if row.startswith('-') else 'yes'}" for row in rows]
    path = folder / "rows.csv"
    path.write_text("\n".join(["a,b,answer", *lines]) + "\n")
    return path


def write_specs(folder: Path, source: Path) -> None:
    """Writes a spec that trains at the pace of `paced`, with and without a search."""
    value: dict[str, Any] = {
        "name": NAME,
        "storage": "store",
        # A prepared data set is known by the place of its source, so copies of it share that.
        "data": {"source": str(source), "target": "answer"},
        # Tune gives each trial a working directory of its own.
        "model": {"builder": "paced:network", "arguments": {"hurry": str(folder / "hurry")}},
        "train": {"epochs": 8, "global_batch_size": 32},
        "scaling": {"num_workers": 1},
        "checkpoint": {"every_steps": 5},
        "serve": {"port": 0, "ray_actor_options": {"num_cpus": 0.1}},
    }
    (folder / "plain.yaml").write_text(yaml.safe_dump(value))
    space = {"train.learning_rate": {"grid": [0.01, 0.02]}}
    value["sweep"] = {"space": space, "num_samples": 1, "scheduler": "fifo"}
    (folder / "spec.yaml").write_text(yaml.safe_dump(value))


def finish(folder: Path, path: Path) -> None:
    """Brings the project with a finished run and two registered versions.

    Args:
        folder: Gets the project.
        path: Folder of the module `paced`.
    """
    write_specs(folder, write_rows(folder))
    (folder / "hurry").touch()
    given = ("train", "plain.yaml", "--set", "scaling.num_workers=0")
    with started(folder, path, *given) as command:
        assert command.wait() == 0, command.errors()
    store = Storage(str(folder / "store"))
    model = store / "runs" / NAME / "model"
    Registry(store).register(NAME, model, {"run": NAME})
    # The same model, told apart by its manifest.
    meta, files = checksummed_folder.read_checksummed(model)
    checksummed_folder.write_checksummed(store / "second", files, {**meta, "second": True})
    Registry(store).register(NAME, store / "second", {"run": "second"})
    (store / "second").delete()


def check_store(store: Path) -> list[int]:
    """Asserts that no run is held, no endpoint recorded, and data sets and versions are whole.

    Returns the versions.
    """
    assert not list(store.rglob(lease.FILE))
    for data in (store / "data").glob("*"):
        if not data.name.startswith("."):
            prepared.load(Storage(str(data)))
    # Each ended with the Ray of its command.
    assert not endpoint_record.read_records(Storage(str(store)), NAME)
    registry = Registry(Storage(str(store)))
    versions = registry.versions(NAME) if NAME in registry.models() else []
    for version in versions:
        bundle.load(registry.folder(NAME, version)).check_golden()
    return versions
