"""The tables of an evaluation, by class and by slice, and its lines. Used in its driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from raydc.features import Features
from raydc.models.scores import Scores
from raydc.spec import ResolvedSpec
from raydc.spec.metric import validation_names

# Lines of a report; the file has all steps.
_MOST_STEPS = 12


def confusion_matrix(features: Features) -> Tensor | None:
    """An empty confusion matrix, int64 [K, K]; None where a row does not have one class."""
    if features.signature.task != "classification":
        return None
    num_classes = features.signature.num_outputs
    return torch.zeros(num_classes, num_classes, dtype=torch.int64)


def count(confusion_KK: Tensor, expected_B: Tensor, predicted_B: Tensor) -> None:
    """Adds rows to a confusion matrix.

    Args:
        confusion_KK: Counts so far; rows are true classes, columns predicted ones.
        expected_B: Positions of the true classes.
        predicted_B: Positions of the predicted classes.
    """
    cells_B = expected_B.long() * len(confusion_KK) + predicted_B.long()
    counts = cells_B.bincount(minlength=confusion_KK.numel())
    confusion_KK += counts.view_as(confusion_KK)


def by_class(confusion: Tensor | None, scores: Scores, features: Features) -> dict[str, Any]:
    """Tables by class or label; empty for a regression.

    Args:
        confusion: The filled result of `confusion_matrix`.
        scores: Scores of the same rows.
        features: Features of the model, with the names of the classes.

    Returns:
        `support` (rows of each class), `confusion_matrix` (rows: true classes, columns: predicted
        ones; none for labels) and `per_class` (metrics by class).
    """
    if not features.signature.classes:
        return {}
    matrix = {} if confusion is None else {"confusion_matrix": confusion.tolist()}
    per_class = {name: result.to_dict() for name, result in scores.by_class().items()}
    return {"support": scores.support, **matrix, "per_class": per_class}


def by_slice(found: Mapping[tuple[str, str], Scores]) -> dict[str, Any]:
    """Metrics by slice, as `slices`; empty without slices.

    Args:
        found: Scores of the rows of each slice, by column and name.
    """
    tables: dict[str, dict[str, Any]] = {}
    for (column, name), scores in found.items():
        if scores.num_rows:
            own = {"num_rows": scores.num_rows, **scores.compute().to_dict()}
            tables.setdefault(column, {})[name] = own
    return {"slices": tables} if tables else {}


def describe(metrics: dict[str, Any], split: str, spec: ResolvedSpec | None) -> Iterator[str]:
    """Yields the scores of a model in one line, and a line for each that is undefined.

    Args:
        metrics: What `raydc.evaluate.run` returned.
        split: Split that was scored.
        spec: Its metrics of each epoch are shown; None shows all metrics.
    """
    names: Iterable[str] = metrics
    if spec is not None:
        train = spec.train
        names = ("loss", *validation_names(spec.data.task, train.metrics, train.metric))
    found = {name: metrics.get(name) for name in names}
    shown = "  ".join(f"{n} {value:.4f}" for n, value in found.items() if isinstance(value, float))
    yield f"evaluate  {split}: {shown} ({metrics['num_rows']:,} rows)"
    undefined = metrics.get("undefined", {})
    yield from (f"          {name} is undefined: {undefined[name]}" for name in undefined)
    yield from _forecast_lines(metrics)


def _forecast_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """Yields the errors of forecasts beside those of persistence."""
    by_step = metrics.get("by_step", [])
    for one in by_step[:_MOST_STEPS]:
        ratio = one["mae_over_persistence"]
        beside = "" if ratio is None else f", {ratio:.3f} of it"
        mae, rmse, naive = (_shown(one[name]) for name in ("mae", "rmse", "persistence_mae"))
        yield (
            f"          step {one['step']}: mae {mae}  rmse {rmse}; "
            f"the last value has mae {naive}{beside}"
        )
    if len(by_step) > _MOST_STEPS:
        yield f"          and {len(by_step) - _MOST_STEPS} more steps: evaluation.json"


def _shown(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"
