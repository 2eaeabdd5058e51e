"""Small finished runs with a source, trained in the test's process, for tests of reports."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tasks_here import tasks_here

from raydc import bundle, train
from raydc import spec as specs
from raydc.data import prepare
from raydc.data.prepared import Prepared
from raydc.data.shards import open_rows
from raydc.features.record import expanded
from raydc.models import evaluation_tables
from raydc.models.scores import Scores
from raydc.storage import Storage

HOSTILE = "<script>alert('x')</script>"
NUM_ROWS = 600


def write_rows(path: Path, task: str = "classification") -> None:
    """Rows whose target follows from `signal`; of `noise` nothing follows, nor of `place`."""
    choose = random.Random(5)
    lines = [f"signal,noise,{HOSTILE},y"]
    for _ in range(NUM_ROWS):
        signal, place = choose.gauss(0, 1), choose.choice(["Rome", HOSTILE])
        label = HOSTILE if signal + choose.gauss(0, 0.3) > 0 else "no"
        target = label if task == "classification" else f"{3 * signal + 100:.4f}"
        lines.append(f"{signal:.4f},{choose.random():.4f},{place},{target}")
    path.write_text("\n".join(lines) + "\n")


def finish_run(folder: Path, name: str = "short", **sections: Any) -> tuple[Storage, Prepared]:
    """Prepares, trains and evaluates without Ray; returns the run folder and the data set.

    Args:
        folder: Has `rows.csv`, and gets the storage `store`.
        name: Name of the run.
        **sections: Sections of the spec that differ.
    """
    value: dict[str, Any] = {
        "name": name,
        "storage": str(folder / "store"),
        "data": {"source": str(folder / "rows.csv"), "target": "y"},
        "model": {"name": "mlp", "hidden": [8]},
        "train": {"epochs": 3, "global_batch_size": 32, "learning_rate": 0.02},
        "scaling": {"num_workers": 0},
    }
    for section, fields in sections.items():
        value[section] = {**value[section], **fields}
    spec = specs.resolve(specs.from_dict(value))
    run_folder = Storage(spec.storage) / "runs" / name
    run_folder.write_bytes("spec.yaml", yaml.safe_dump(value).encode())
    run_folder.write_bytes("resolved.yaml", yaml.safe_dump(specs.to_dict(spec)).encode())
    with tasks_here():
        data = prepare.run(spec, lambda line: None)
    train.run(spec, data, run_folder, lambda line: None)
    run_folder.write_json("evaluation.json", _evaluate(run_folder, data))
    return run_folder, data


def _evaluate(run_folder: Storage, data: Prepared) -> dict[str, Any]:
    loaded = bundle.load(run_folder / "model")
    rows = open_rows(data.folder, "test")
    x, y_B = rows.gather(np.arange(len(rows), dtype=np.int64))
    found: dict[str, Any] = {"split": "test", "num_rows": len(rows), "loss": 0.25}
    classes = loaded.features.signature.classes
    if loaded.features.has_label_sets:
        scores = Scores(loaded.features, None, len(rows))
        scores.update(torch.from_numpy(loaded.forward(x)), torch.from_numpy(y_B))
        tables = evaluation_tables.by_class(None, scores, loaded.features)
        return {**found, **scores.compute().to_dict(), **tables}
    if classes:
        matrix = [[0] * len(classes) for _ in classes]
        answers = loaded.forward(expanded(x)).argmax(axis=1)
        for true, answered in zip(y_B.tolist(), answers.tolist(), strict=True):
            matrix[true][answered] += 1
        found["confusion_matrix"] = matrix
        found["support"] = {name: sum(row) for name, row in zip(classes, matrix, strict=True)}
    return found
