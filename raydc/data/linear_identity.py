"""Finds columns whose weighted sum is the target: for `raydc inspect`.

A sum is guessed from some rows in the driver, and then checked on all rows in tasks of Ray Data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.data.clean import DROPPED, Cleaner
from raydc.order import mix

# Rows from which a sum is guessed.
SAMPLE_ROWS = 2000
_MIN_ROWS = 20
_MAX_TERMS = 6
# A double has 15 digits, and files often hold six.
_TOLERANCE = 1e-6
_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Identity:
    """A weighted sum of columns.

    Attributes:
        weights: Weight of each column, by name.
        constant: Number that is added to the weighted sum.
    """

    weights: dict[str, float]
    constant: float

    def __str__(self) -> str:
        terms = [
            name if weight == 1 else f"-{name}" if weight == -1 else f"{weight:.6g} {name}"
            for name, weight in self.weights.items()
        ]
        if self.constant:
            terms.append(f"{self.constant:.6g}")
        return " + ".join(terms).replace("+ -", "- ")


def guess(columns: dict[str, _Numbers], target_B: _Numbers) -> Identity | None:
    """Guesses a sum from some rows: the best column first, then the one that mends it best.

    Args:
        columns: Numbers by column, without missing ones.
        target_B: Numbers of the target in the same rows.

    Returns:
        A sum of a few columns that holds in these rows; None if none does.
    """
    spread = float(target_B.std()) if len(target_B) else 0.0
    usable = {name: numbers for name, numbers in columns.items() if numbers.std() > 0}
    if len(target_B) < _MIN_ROWS or not spread or not usable:
        return None
    scaled = {name: (x - x.mean()) / x.std() for name, x in usable.items()}
    chosen: list[str] = []
    rest_B = target_B - target_B.mean()
    while len(chosen) < min(_MAX_TERMS, len(usable)):
        left = [name for name in usable if name not in chosen]
        chosen.append(max(left, key=lambda name: abs(float(scaled[name] @ rest_B))))
        matrix = np.stack([*(scaled[name] for name in chosen), np.ones(len(target_B))], axis=1)
        found, *_ = np.linalg.lstsq(matrix, target_B, rcond=None)
        rest_B = target_B - matrix @ found
        if float(np.abs(rest_B).max()) <= _TOLERANCE * spread:
            return _rounded(chosen, usable, target_B)
    return None


def _rounded(
    chosen: Sequence[str], columns: dict[str, _Numbers], target_B: _Numbers
) -> Identity | None:
    """Weights in units of the columns; whole ones and halves, if they are meant so."""
    matrix = np.stack([*(columns[name] for name in chosen), np.ones(len(target_B))], axis=1)
    found, *_ = np.linalg.lstsq(matrix, target_B, rcond=None)
    near = np.round(found * 2) / 2
    scale = np.abs(matrix).max(axis=0)
    is_meant = np.abs(found - near) * scale <= 10 * _TOLERANCE * np.abs(target_B).max()
    weights = np.where(is_meant, near, found).tolist()
    kept = {name: weight for name, weight in zip(chosen, weights[:-1], strict=True) if weight != 0}
    return Identity(kept, weights[-1]) if kept else None


def read_numbers(
    table: pa.Table, cleaner: Cleaner, names: Sequence[str], stride: int
) -> dict[str, list[float]]:
    """One row of `stride`, by a hash of its id, if none of its columns nor its target is missing.

    Args:
        table: Raw rows of a block.
        cleaner: Names the target, and the rows that are dropped.
        names: Numeric input columns to read besides the target.
        stride: About one row of this many is read; 1 reads all.
    """
    # Spread over the file: it may be sorted, with similar first rows.
    chosen = mix(values.row_ids(table).astype(np.uint64)) % np.uint64(stride) == 0
    numbers = _usable(table.filter(pa.array(chosen)), cleaner, names)
    return {name: column.tolist() for name, column in numbers.items()}


def count_rows(table: pa.Table, cleaner: Cleaner, identity: Identity) -> tuple[int, int]:
    """Counts the rows of a block in which a sum is the target, and those that have all values.

    Args:
        table: Raw rows of a block.
        cleaner: Names the target, and the rows that are dropped.
        identity: Weighted sum to compare with the target.
    """
    numbers = _usable(table, cleaner, list(identity.weights))
    target_B = numbers[cleaner.data.target]
    said_B = np.full(len(target_B), identity.constant)
    size_B = np.abs(said_B) + np.abs(target_B)
    for name, weight in identity.weights.items():
        said_B += weight * numbers[name]
        size_B += np.abs(weight * numbers[name])
    holds = np.abs(said_B - target_B) <= _TOLERANCE * np.maximum(size_B, 1e-300)
    return int(holds.sum()), len(holds)


def _usable(table: pa.Table, cleaner: Cleaner, names: Sequence[str]) -> dict[str, _Numbers]:
    rows = table.filter(pa.array(cleaner.assign_splits(table) != DROPPED))
    numbers = {
        name: values.parse_numbers(values.column_of(rows, name)).values
        for name in (*names, cleaner.data.target)
    }
    whole = np.logical_and.reduce([np.isfinite(column) for column in numbers.values()])
    return {name: column[whole] for name, column in numbers.items()}
