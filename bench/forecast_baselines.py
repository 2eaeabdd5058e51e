"""What simple forecasts reach on the very windows of a prepared data set, for bench/quality.py.

Persistence says that the last value stays. The autoregression is a linear model of the last 24
values, fitted to the training windows by least squares with a small penalty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raydc.data.prepared import Prepared
from raydc.data.shards import open_rows

NUM_LAGS = 24
_PENALTY = 1e-3


def write_series(table: Path, name: str, folder: Path) -> Path:
    """Writes one series of NAB as a file of its own.

    Args:
        table: File of all series.
        name: Name of the series.
        folder: Folder that gets the file.
    """
    rows = pq.read_table(table, filters=[("series", "==", name)])
    path = folder / f"{name.rpartition('/')[2]}.parquet"
    pq.write_table(rows.select(["timestamp", "value"]), path)
    return path


def _windows(data: Prepared, split: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Past values [rows, steps] and the next value, in units of the target."""
    rows = open_rows(data.folder, split)
    x, y = rows.gather(np.arange(len(rows)))
    window: Any = x.fields["window"]  # type: ignore[union-attr]
    own = data.features.columns["window"].target  # type: ignore[union-attr]
    return data.features.unscale(window[:, :, own].reshape(-1)).reshape(len(rows), -1), (
        data.features.unscale(y)
    )


def mean_errors(data: Prepared) -> Iterator[tuple[str, float]]:
    """Yields name and mean absolute error of each baseline on the test windows."""
    past, expected = _windows(data, "test")
    yield "persistence", float(np.abs(past[:, -1] - expected).mean())
    known, target = _windows(data, "train")
    centre, size = known.mean(), known.std() or 1.0

    def inputs(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scaled = (values[:, -NUM_LAGS:] - centre) / size
        return np.concatenate([scaled, np.ones((len(values), 1))], axis=1)

    design = inputs(known)
    square = design.T @ design + _PENALTY * np.eye(design.shape[1])
    weights = np.linalg.solve(square, design.T @ ((target - centre) / size))
    said = inputs(past) @ weights * size + centre
    yield f"AR{NUM_LAGS}", float(np.abs(said - expected).mean())
