"""Helpers of the tests that prepare data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from prepared_here import MODEL_OF_TASK

from raydc.data import prepare, shards, tasks
from raydc.data.prepared import Prepared
from raydc.features.record import expanded
from raydc.spec import loads, resolve

CITIES = ("Rome", "Oslo", "Lima", None)


def spec_text(storage: Path, data: dict[str, Any], seed: int = 0) -> str:
    """A spec around a `data` section."""
    return yaml.safe_dump(
        {
            "name": "set",
            "seed": seed,
            "storage": str(storage),
            "data": data,
            "model": {"name": MODEL_OF_TASK.get(data.get("task", ""), "linear")},
        }
    )


def run(
    storage: Path,
    data: dict[str, Any],
    seed: int = 0,
    parallelism: int | None = None,
    connect: Callable[[], object] = tasks.connected,
) -> tuple[Prepared, list[str]]:
    """Prepares, and gives what was reported; in this process without a parallelism."""
    lines: list[str] = []
    spec = resolve(loads(spec_text(storage, data, seed)))
    return prepare.run(spec, lines.append, parallelism, connect=connect), lines


def split(
    prepared: Prepared, name: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64]]:
    """x, y and row ids of a split."""
    rows = shards.open_rows(prepared.folder, name)
    x, y = rows.gather(np.arange(len(rows)))
    return expanded(x), y, rows.ids  # type: ignore[return-value]


def people(num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with numbers, categories, missing values and a target that depends on them."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        age, city = int(generator.integers(18, 90)), CITIES[generator.integers(len(CITIES))]
        height = None if generator.random() < 0.1 else round(float(generator.normal(170, 10)), 2)
        label = "old" if age + generator.integers(-5, 5) > 50 else "young"
        rows.append({"age": age, "height": height, "city": city, "label": label})
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Missing values are empty cells."""
    lines = [
        ",".join(rows[0]),
        *(",".join("" if v is None else str(v) for v in row.values()) for row in rows),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Missing values are left out."""
    lines = [json.dumps({k: v for k, v in row.items() if v is not None}) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def idx(values: npt.NDArray[np.uint8]) -> bytes:
    """An IDX file."""
    return (
        bytes([0, 0, 8, values.ndim])
        + np.array(values.shape, dtype=">u4").tobytes()
        + values.tobytes()
    )


def contents(prepared: Prepared) -> dict[str, str]:
    """sha256 of every file of a data set."""
    from raydc.storage import sha256

    path = prepared.folder.local_path
    return {file.name: sha256(file.read_bytes()) for file in sorted(path.iterdir())}
