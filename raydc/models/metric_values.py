"""Metrics from counts, from sums and from the scores of all rows. Pure.

All are defined as torchmetrics defines them.
A value that is not defined is a text: the reason.

Shape suffixes: N rows, K classes or labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from raydc.models import score_curves

# A number, or the reason why there is none.
Value = float | str

_NO_ROWS = "there are no rows"
_NOT_NUMBERS = "some scores are not numbers"
# Metrics of `from_counts`.
_COUNTED = (
    "accuracy",
    *(f"{name}{mean}" for name in ("f1", "precision", "recall") for mean in ("", "_micro")),
    "f1_weighted",
    "precision_weighted",
    "balanced_accuracy",
)
# Fraction of the mean square below which a variance is nothing but rounding.
_LEAST_VARIANCE = 1e-12


def from_counts(counts_K3: Tensor) -> dict[str, Value]:
    """Metrics of a classification that follow from counts.

    Args:
        counts_K3: int64; for each class the rows predicted rightly as it, predicted as it, and of
            it.

    Returns:
        Accuracy; precision, recall and F1, each as the mean over the classes that occur or are
        predicted (macro), and over all rows (micro); F1 and precision as means weighted by the
        rows of each class; and the mean recall of the classes that occur (balanced accuracy).
    """
    hits_K, predicted_K, actual_K = counts_K3.double().unbind(1)
    if not actual_K.sum():
        return dict.fromkeys(_COUNTED, _NO_ROWS)
    precision_K, recall_K, f1_K = _rates(counts_K3)
    # Like torchmetrics: a class that neither occurs nor is predicted is left out of the mean; a
    # metric that is not defined for another class counts as 0.
    seen_K = (predicted_K + actual_K) > 0
    accuracy = float(hits_K.sum() / actual_K.sum())
    macro = {"precision": precision_K, "recall": recall_K, "f1": f1_K}
    values: dict[str, Value] = {"accuracy": accuracy}
    for name, rates_K in macro.items():
        values[name] = float(rates_K.nan_to_num(0.0)[seen_K].mean())
        # Each row has one class and one prediction, so all three are the accuracy.
        values[f"{name}_micro"] = accuracy
    for name in ("precision", "f1"):
        values[f"{name}_weighted"] = _weighted(macro[name], actual_K)
    values["balanced_accuracy"] = float(recall_K[actual_K > 0].mean())
    return values


def _weighted(rates_K: Tensor, actual_K: Tensor) -> float:
    """Mean of rates weighted by the rows of each class; undefined ones count as 0."""
    return float((rates_K.nan_to_num(0.0) * actual_K).sum() / actual_K.sum())


def total(numbers: Sequence[float]) -> float:
    """Sum that is rounded once; infinite if a model has diverged beyond what a sum can hold."""
    try:
        return math.fsum(numbers)
    # A sum exceeds float64, or there are infinities of both signs.
    except (OverflowError, ValueError):
        return math.inf


def perplexity(loss: float) -> Value:
    """How many equally likely classes would leave a model as unsure, from its mean cross entropy.

    Args:
        loss: Mean cross entropy in natural units.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return "it is beyond all numbers"


def by_class(counts_K3: Tensor) -> list[dict[str, Value]]:
    """Precision, recall and F1 of each class; see `from_counts`."""
    precision_K, recall_K, f1_K = (rates.tolist() for rates in _rates(counts_K3))
    values: list[dict[str, Value]] = []
    for precision, recall, f1 in zip(precision_K, recall_K, f1_K, strict=True):
        values.append(
            {
                "precision": "it is never predicted" if math.isnan(precision) else precision,
                "recall": "it has no rows" if math.isnan(recall) else recall,
                "f1": "it has no rows and is never predicted" if math.isnan(f1) else f1,
            }
        )
    return values


def _rates(counts_K3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 by class; not a number where they are not defined."""
    hits_K, predicted_K, actual_K = counts_K3.double().unbind(1)
    return hits_K / predicted_K, hits_K / actual_K, 2 * hits_K / (predicted_K + actual_K)


def from_label_counts(counts_K3: Tensor, num_rows: int, num_exact: float) -> dict[str, Value]:
    """Metrics of sets of labels that follow from counts; undefined rates count as 0.

    Args:
        counts_K3: int64; for each label the rows rightly said to have it, said to, and that do.
        num_rows: Number of rows that the sums are taken over.
        num_exact: Rows of which every label is right.

    Returns:
        Precision, recall and F1 as the mean over labels (macro), over all labels of all rows
        (micro) and weighted by the rows that have a label; the part of all answers that are right,
        and of all rows.
    """
    if not num_rows:
        names = ("precision", "recall", "f1")
        every = [f"{name}{mean}" for name in names for mean in ("", "_micro", "_weighted")]
        return dict.fromkeys((*every, "accuracy", "exact_match"), _NO_ROWS)
    hits_K, predicted_K, actual_K = counts_K3.double().unbind(1)
    wrong = float((predicted_K + actual_K - 2 * hits_K).sum())
    values: dict[str, Value] = {
        "accuracy": 1.0 - wrong / (num_rows * len(counts_K3)),
        "exact_match": num_exact / num_rows,
    }
    whole = _rates(counts_K3.sum(dim=0, keepdim=True))
    for name, rates_K, rate in zip(
        ("precision", "recall", "f1"), _rates(counts_K3), whole, strict=True
    ):
        values[name] = float(rates_K.nan_to_num(0.0).mean())
        values[f"{name}_micro"] = float(rate.nan_to_num(0.0))
        if actual_K.sum():
            values[f"{name}_weighted"] = _weighted(rates_K, actual_K)
        else:
            values[f"{name}_weighted"] = "no row has a label"
    return values


def areas(name: str, scores_NK: Tensor, expected_N: Tensor) -> list[Value]:
    """Area under a curve for each class against all others, or for each label.

    Args:
        name: auroc, or auprc for the average precision.
        scores_NK: Probabilities, float64.
        expected_N: Class positions, or marks of labels [N, K].
    """
    if not scores_NK.isfinite().all():
        return [_NOT_NUMBERS] * scores_NK.shape[1]
    values: list[Value] = []
    for position in range(scores_NK.shape[1]):
        is_it_N = (
            expected_N[:, position] if expected_N.ndim == 2 else expected_N == position
        ).bool()
        num_rows = int(is_it_N.sum())
        if num_rows == 0:
            values.append("it has no rows")
        elif num_rows == len(is_it_N) and name == "auroc":
            are_classes = expected_N.ndim == 1
            values.append("no other class has rows" if are_classes else "every row has it")
        elif name == "auroc":
            values.append(score_curves.area_under_roc(scores_NK[:, position], is_it_N))
        else:
            values.append(score_curves.average_precision(scores_NK[:, position], is_it_N))
    return values


def mean_area(values: Sequence[Value], are_labels: bool = False) -> Value:
    """The area of a whole model: that of the second of two classes, else the mean over classes.

    Classes without rows are not part of the mean.

    Args:
        values: Area of each class or label, in their order.
        are_labels: Whether they are labels: of two labels, none stands for the whole model.
    """
    if len(values) == 2 and not are_labels:
        return values[1]
    numbers = [value for value in values if isinstance(value, float)]
    return math.fsum(numbers) / len(numbers) if numbers else values[0]


def calibration_error(scores_NK: Tensor, expected_N: Tensor) -> Value:
    """Expected calibration error of the highest score of each row, in bins of equal width."""
    if not len(scores_NK):
        return _NO_ROWS
    if not scores_NK.isfinite().all():
        return _NOT_NUMBERS
    best_N, predicted_N = scores_NK.max(dim=1)
    return score_curves.calibration_error(best_N, predicted_N == expected_N)


def from_sums(num_rows: int, sums: Mapping[str, float]) -> dict[str, Value]:
    """Metrics of a regression that follow from sums over rows.

    Args:
        num_rows: Number of rows that the sums are taken over.
        sums: `error` (absolute), `error2` (squared), `target` and `target2` (standardised),
            `rest` (squared error, standardised), `part` (absolute error over absolute target),
            `zeros` (targets of 0).

    Returns:
        rmse and mae in the units of `error`; r2 and mape as fractions.
    """
    if not num_rows:
        return dict.fromkeys(("rmse", "mae", "r2", "mape"), _NO_ROWS)
    values: dict[str, Value] = {
        "rmse": math.sqrt(sums["error2"] / num_rows),
        "mae": sums["error"] / num_rows,
        "r2": "fewer than two rows have no variance",
        "mape": f"{int(sums['zeros'])} target(s) are 0",
    }
    variance = sums["target2"] - sums["target"] * sums["target"] / num_rows
    if num_rows > 1:
        is_constant = variance <= _LEAST_VARIANCE * sums["target2"]
        values["r2"] = "all targets are equal" if is_constant else 1.0 - sums["rest"] / variance
    if not sums["zeros"]:
        values["mape"] = sums["part"] / num_rows
    return values
