"""Files of series for tests: rows of two machines, out of order and in several files."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
STEP_S = 300


def machine_rows(num_steps: int = 60, machines: Sequence[str] = ("a", "b")) -> list[Row]:
    """Rows whose values tell machine and step: machine b, step 7 is 1007."""
    return [
        {
            "machine": machine,
            "time": step * STEP_S,
            "load": 1000 * number + step,
            "heat": 20 + (step * 7 + number) % 5,
            "room": "north" if number == 0 else "south",
        }
        for step in range(num_steps)
        for number, machine in enumerate(machines)
    ]


def write_rows(folder: Path, rows: Sequence[Row], num_files: int = 1, seed: int | None = 0) -> Path:
    """Writes rows to CSV files.

    Args:
        folder: Folder that gets a folder of files.
        rows: At least one row.
        num_files: Number of files, each of which is a block.
        seed: Seed of the order of the rows; None keeps their order.
    """
    shuffled = list(rows)
    if seed is not None:
        random.Random(seed).shuffle(shuffled)
    source = folder / f"series_{num_files}"
    source.mkdir(parents=True)
    for part in range(num_files):
        own = shuffled[part * len(rows) // num_files : (part + 1) * len(rows) // num_files]
        with (source / f"{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(own)
    return source


def series_data(source: Path, **windows: Any) -> dict[str, Any]:
    """Section `data` for these files: four past steps of both numbers, split by time."""
    section = {
        "length": 4,
        "time": "time",
        "key": "machine",
        # The target is not the first, so that a place that is taken for granted is seen.
        "columns": ["heat", "load"],
        **windows,
    }
    return {
        "source": str(source),
        "task": "regression",
        "target": "load",
        "windows": section,
        "split": {"by": "time", "column": "time"},
    }
