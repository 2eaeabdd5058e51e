"""Errors of forecasts by step, beside those of persistence. Used in the driver of an evaluation.

Persistence predicts that the last value of the past stays. Sums are taken inside blocks of rows
that do not depend on workers, and over the blocks with `math.fsum`.

Shape suffixes: B rows, H steps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.features import Features, Inputs, Record, SeriesWindow
from raydc.models.metric_values import total

Array = npt.NDArray[Any]


def last_values(features: Features, x: Inputs) -> Array | None:
    """The last past value of the target of each row, float64 [B], in its units.

    Args:
        features: Features of the model, which know the windows.
        x: Rows as they are stored.

    Returns:
        None if the rows are not windows, or the past of the target is not among their columns.
    """
    for name, column in features.columns.items():
        if isinstance(column, SeriesWindow) and column.target is not None:
            assert isinstance(x, Record)
            window_BLC: Any = x.fields[name]
            return column.unscale(window_BLC[:, -1, column.target])
    return None


class ForecastScores:
    """Accumulates errors of each step."""

    def __init__(self) -> None:
        self._sums: dict[int, Array] = {}
        self._num_rows = 0

    def add(self, block: int, predicted: Array, expected: Array, last_B: Array) -> None:
        """Adds the rows of a block.

        Args:
            block: Number of the block; each is added once.
            predicted: Forecasts [B] or [B, H], in units of the target.
            expected: True values, of the same shape.
            last_B: Last value of each row before the forecast.
        """
        # The forecasts of a model that has diverged may be infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            errors_BH = np.reshape(predicted - expected, (len(last_B), -1))
            naive_BH = last_B[:, None] - np.reshape(expected, errors_BH.shape)
            sums = [np.abs(errors_BH), np.square(errors_BH), np.abs(naive_BH)]
            self._sums[block] = np.stack([part.sum(axis=0) for part in sums])
        self._num_rows += len(last_B)

    def to_dict(self) -> dict[str, Any]:
        """Errors of each step and of all steps together; empty without rows.

        Returns:
            `persistence_mae`, and `mae_over_persistence`, which is below 1 if the forecast is
            better; `by_step` has both, `mae` and `rmse` for each step. What is not a finite number
            is None, as it is of a model that has diverged.
        """
        if not self._num_rows:
            return {}
        blocks = np.stack([self._sums[block] for block in sorted(self._sums)])
        by_step = []
        for step in range(blocks.shape[2]):
            absolute, squared, naive = (
                total(blocks[:, kind, step].tolist()) / self._num_rows for kind in range(3)
            )
            by_step.append(
                {
                    "step": step + 1,
                    "mae": _finite(absolute),
                    "rmse": _finite(math.sqrt(squared)),
                    **_beside_persistence(absolute, naive),
                }
            )
        mae, naive = (
            total([math.inf if one[name] is None else one[name] for one in by_step]) / len(by_step)
            for name in ("mae", "persistence_mae")
        )
        return {**_beside_persistence(mae, naive), "by_step": by_step}


def _beside_persistence(mae: float, naive: float) -> dict[str, Any]:
    # A series that never changes has no error to compare with.
    ratio = mae / naive if 0 < naive < math.inf else math.inf
    return {"persistence_mae": _finite(naive), "mae_over_persistence": _finite(ratio)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
