"""Rows that a model was judged on, reduced to what metrics need; and metrics over all. Pure.

Shape suffixes: B rows of a block, K outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from raydc.features import Features
from raydc.models.losses import plain_losses
from raydc.models.metric_values import Value
from raydc.spec.language import LANGUAGE


@dataclass(frozen=True, eq=False)
class Judged:
    """The rows of a block, reduced to what metrics need and small enough to be sent on.

    Attributes:
        predicted_B: Predicted class positions, float64 values in units of the target, or marks of
            labels [B, K]; of texts what `expected_B` holds.
        expected_B: True class positions, values or marks, in the same form; of texts the number of
            tokens of each row.
        losses_B: Loss of each row, float64.
        scores_BK: Probabilities, float64; empty where no metric needs them.
        queries_B: Numbers of the groups in which rows are ranked, int64; empty without groups.
    """

    predicted_B: Tensor
    expected_B: Tensor
    losses_B: Tensor
    scores_BK: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))
    queries_B: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def take(self, positions: Tensor) -> Judged:
        """The rows at some positions."""
        parts = vars(self).items()
        return Judged(**{name: part[positions] if part.numel() else part for name, part in parts})


@dataclass(frozen=True)
class Result:
    """Metrics over all rows.

    Attributes:
        values: Value of each metric by name; None if it is not defined.
        reasons: Why a metric is not defined, by its name.
    """

    values: dict[str, float | None]
    reasons: dict[str, str]

    @classmethod
    def of(cls, found: dict[str, Value]) -> Result:
        """Separates numbers from reasons; a number that is not finite becomes a reason."""
        reasons = {
            name: value if isinstance(value, str) else f"it is {value}"
            for name, value in found.items()
            if isinstance(value, str) or not math.isfinite(value)
        }
        values = {name: None if name in reasons else float(found[name]) for name in found}
        return cls(values, reasons)

    def to_dict(self) -> dict[str, Any]:
        """The values by name, and `undefined` with the reasons if there are any."""
        return {**self.values, "undefined": self.reasons} if self.reasons else dict(self.values)


def judge(
    features: Features, outputs_BK: Tensor, targets_B: Tensor, keeps_scores: bool = True
) -> Judged:
    """Compares the outputs of a model with targets.

    Args:
        features: Features of the model, which hold the task and the units of the target.
        outputs_BK: Raw outputs of the network, float32, on any device.
        targets_B: Stored targets: class positions, standardised values, or marks of labels.
        keeps_scores: Whether the result holds the probabilities.
    """
    # The rest is done on the CPU in float64, which gives the same digits on every device.
    outputs_BK, targets_B = outputs_BK.detach().cpu(), targets_B.cpu()
    task = features.signature.task
    # Tokens of a text are added up in float64, values of other tasks few.
    precise_BK = outputs_BK.double() if task == LANGUAGE else outputs_BK
    losses_B = plain_losses(task, precise_BK, targets_B).double()
    if task == LANGUAGE:
        return Judged(targets_B, targets_B, losses_B)
    if task == "regression":
        predicted_B = _to_target_units(features, outputs_BK)
        expected_B = _to_target_units(features, targets_B)
        return Judged(predicted_B, expected_B, losses_B)
    judged = Judged(outputs_BK.argmax(dim=1), targets_B, losses_B)
    by_score = features.threshold is not None or features.has_label_sets
    if not keeps_scores and not by_score:
        return judged
    scores_BK = features.scores(outputs_BK.numpy())
    if by_score:
        judged = replace(judged, predicted_B=torch.from_numpy(features.choose(scores_BK)))
    return replace(judged, scores_BK=torch.from_numpy(scores_BK)) if keeps_scores else judged


def _to_target_units(features: Features, standardised: Tensor) -> Tensor:
    return torch.from_numpy(features.unscale(standardised.numpy()))
