"""Columns that a batch prediction adds to a table of raw rows. Pure; in processes of its pool.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

from itertools import compress

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.bundle.folder import Bundle

_PREDICTION, _SCORE = "prediction", "score"


def names_of(bundle: Bundle) -> list[str]:
    """Names of the columns, in their order."""
    return [*_steps_of(bundle), *_scores_of(bundle)]


def _steps_of(bundle: Bundle) -> list[str]:
    """Column of the answer; for a forecast one for each step, because CSV has no lists."""
    count = bundle.features.signature.num_values
    return [_PREDICTION] if count == 1 else [f"{_PREDICTION}_{step + 1}" for step in range(count)]


def _scores_of(bundle: Bundle) -> list[str]:
    if bundle.features.has_label_sets:
        return [f"{_SCORE}:{name}" for name in bundle.features.signature.classes]
    return [_SCORE]


def add(table: pa.Table, bundle: Bundle, values_BK: npt.NDArray[np.float64]) -> pa.Table:
    """Adds the answers of a model to its rows.

    Args:
        table: Raw rows, in the order of the answers.
        bundle: Model that has answered.
        values_BK: Result of `Features.values` for the rows, float64 [B, K].
    """
    features = bundle.features
    if features.signature.task == "regression":
        for name, column in zip(_steps_of(bundle), values_BK.T, strict=True):
            table = table.append_column(name, pa.array(column))
        return table
    chosen = features.choose(values_BK)
    names = pa.array(features.signature.classes, pa.string())
    if not features.has_label_sets:
        table = table.append_column(_PREDICTION, names.take(pa.array(chosen)))
        return table.append_column(_SCORE, pa.array(values_BK[np.arange(len(chosen)), chosen]))
    # Text, because CSV has no lists; with the delimiter of labels in the sources.
    sign = bundle.spec.data.label_delimiter
    joined = [sign.join(compress(features.signature.classes, marks)) for marks in chosen.tolist()]
    table = table.append_column(_PREDICTION, pa.array(joined, pa.string()))
    for name, column in zip(_scores_of(bundle), values_BK.T, strict=True):
        table = table.append_column(name, pa.array(column))
    return table
