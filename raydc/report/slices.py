"""Groups of rows, by the value of one column, that a model predicts worse than others. Pure.

Shape suffixes: B rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_MIN_ROWS = 25
_MAX_VALUES = 12
_MAX_SLICES = 15
# Standard errors from which on a difference is hardly chance, although many slices are tried.
_MIN_ERRORS = 3.0
Floats = npt.NDArray[np.float64]


def find(
    columns: Mapping[str, list[Any]], losses_B: Floats, right_B: npt.NDArray[np.bool_] | None
) -> list[dict[str, Any]]:
    """Finds the slices with the greatest losses.

    Args:
        columns: Raw values of the rows, by column.
        losses_B: Loss of each row, in the same order.
        right_B: Whether the answer to each row is right; None for a regression.

    Returns:
        For each slice its `column`, `value`, `rows`, `loss`, `errors` (standard errors above the
        mean loss) and, for a classification, `accuracy`; the most standard errors first.
    """
    mean, deviation = float(losses_B.mean()), float(losses_B.std())
    found: list[dict[str, Any]] = []
    for name, cells in columns.items():
        for value, rows_B in _groups(cells):
            count = int(rows_B.sum())
            if count < _MIN_ROWS or count == len(losses_B) or not deviation:
                continue
            loss = float(losses_B[rows_B].mean())
            errors = (loss - mean) / (deviation / math.sqrt(count))
            if errors < _MIN_ERRORS:
                continue
            one = {"column": name, "value": value, "rows": count, "loss": loss, "errors": errors}
            if right_B is not None:
                one["accuracy"] = float(right_B[rows_B].mean())
            found.append(one)
    return sorted(found, key=lambda one: -one["errors"])[:_MAX_SLICES]


def _groups(cells: list[Any]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yields name and rows of each quarter of a number, or of each frequent value."""
    numbers = np.array([_number(cell) for cell in cells])
    given = np.isfinite(numbers)
    different = np.unique(numbers[given])
    texts = np.array(["" if cell is None else str(cell) for cell in cells], dtype=object)
    if given.any() and (texts[~given] == "").all() and len(different) > _MAX_VALUES:
        edges = np.unique(np.quantile(numbers[given], (0.25, 0.5, 0.75)))
        bins = np.searchsorted(edges, numbers, side="right")
        names = [f"below {edges[0]:.4g}"]
        names += [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
        names.append(f"from {edges[-1]:.4g} on")
        yield from ((name, given & (bins == index)) for index, name in enumerate(names))
        yield "(missing)", ~given
        return
    found, counts = np.unique(texts.astype(str), return_counts=True)
    for index in np.argsort(-counts, kind="stable")[:_MAX_VALUES]:
        yield str(found[index]) or "(missing)", texts == str(found[index])


def _number(cell: Any) -> float:
    try:
        return math.nan if cell is None or isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return math.nan
