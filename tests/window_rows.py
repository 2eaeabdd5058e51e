"""Rows that are windows of a series, for tests: past steps of two columns beside a number."""

from __future__ import annotations

from typing import Any

import numpy as np

from raydc.data import shards
from raydc.features import Features, Field, Numeric, Record, SeriesWindow, Signature
from raydc.storage import Storage

LENGTH, COLUMNS = 12, ("load", "heat")
MEAN, SCALE = 50.0, 20.0


def window_features(own_column: int | None = 0, horizon: int = 1) -> Features:
    """Features of windows.

    Args:
        own_column: Place of the target among the columns; None if its past is not among them.
        horizon: Values that are predicted.
    """
    means, scales = (MEAN, 20.0), (SCALE, 2.0)
    names = COLUMNS
    if own_column == 1:
        names, means, scales = names[::-1], means[::-1], scales[::-1]
    window = SeriesWindow(LENGTH, names, means, scales, own_column)
    fields = {"columns": Field("array", "float32", (1,)), "window": window.field}
    signature = Signature("record", (), "", (), (), "regression", (), fields, horizon)
    columns = {"window": window, "size": Numeric(3.0, 3.0, 1.0)}
    return Features(signature, "load", columns, MEAN, SCALE)


def window_rows(count: int, seed: int, horizon: int = 1) -> tuple[Record, Any]:
    """Rows of a noisy wave, whose level differs from window to window.

    Args:
        count: Number of rows.
        seed: Seed of the rows.
        horizon: Values that are predicted; the targets are [B, horizon] if it is above 1.
    """
    choose = np.random.default_rng(seed)
    start = choose.uniform(0, 10, (count, 1))
    level = choose.standard_normal((count, 1))
    steps = np.arange(LENGTH + horizon)
    wave = level + np.sin(start + steps / 3)
    wave += 0.05 * choose.standard_normal((count, len(steps)))
    heat = np.cos(start + steps[:LENGTH] / 3)
    window = np.stack([wave[:, :LENGTH], heat], axis=2).astype(np.float32)
    size = choose.standard_normal((count, 1)).astype(np.float32)
    target = wave[:, LENGTH:].astype(np.float32)
    return Record({"columns": size, "window": window}), target[:, 0] if horizon == 1 else target


def write_window_rows(folder: Storage, horizon: int = 1) -> Storage:
    """A prepared data set of windows: 200 rows to train on, 600 for validation."""
    splits = {
        "train": window_rows(200, 0, horizon),
        "validation": window_rows(600, 1, horizon),
    }
    features = window_features(horizon=horizon)
    shards.write_data_set(folder, features, splits, num_rows_per_shard=64)
    return folder


def window_requests(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as a client sends them: steps as objects, and as lists of numbers, in turn."""
    choose = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        steps = choose.normal(MEAN, SCALE, (LENGTH, 2)).round(2).tolist()
        named = [{"load": load, "heat": heat, "time": i} for i, (load, heat) in enumerate(steps)]
        rows.append({"window": steps if number % 2 else named, "size": number % 5})
    return rows
