"""Columns that a batch prediction adds to a table of raw rows. Pure; in processes of its pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def add(table: pa.Table, bundle: Bundle, answers: Sequence[dict[str, Any]]) -> pa.Table:
    """Adds the answers of a model to its rows.

    Args:
        table: Raw rows, in the order of the answers.
        bundle: Model that has answered.
        answers: Result of `Features.decode` for the rows.
    """
    if bundle.features.signature.num_values > 1:
        for step, name in enumerate(_steps_of(bundle)):
            table = table.append_column(name, pa.array([one["value"][step] for one in answers]))
        return table
    if not bundle.features.has_label_sets:
        # A classification has "label" and "score", a regression "value".
        for name, key in ((_PREDICTION, "label"), (_PREDICTION, "value"), (_SCORE, "score")):
            if key in answers[0]:
                table = table.append_column(name, pa.array([answer[key] for answer in answers]))
        return table
    # Text, because CSV has no lists; with the delimiter of labels in the sources.
    sign = bundle.spec.data.label_delimiter
    joined = pa.array([sign.join(answer["labels"]) for answer in answers], pa.string())
    table = table.append_column(_PREDICTION, joined)
    for column, name in zip(_scores_of(bundle), bundle.features.signature.classes, strict=True):
        table = table.append_column(column, pa.array([one["scores"][name] for one in answers]))
    return table
