"""Scores of a model by task, with torchmetrics, which also adds them up over workers.

Sums are kept in float64, so the share of each worker does not show in the digits that are printed or compared.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from raydc.features import Features

if TYPE_CHECKING:
    from torchmetrics import Metric


def loss_sum(task: str, outputs_BK: Tensor, targets_B: Tensor) -> Tensor:
    """The loss that training minimises, summed over rows: the caller divides by the rows of all workers.

    Args:
        task: `classification`: cross entropy. `regression`: squared error of the standardised target.
        outputs_BK: Raw outputs; [B, 1] of a regression.
        targets_B: int64 class positions, or float32 standardised targets.

    Returns:
        float32, one number.
    """
    if task == "classification":
        return functional.cross_entropy(outputs_BK, targets_B, reduction="sum")
    return functional.mse_loss(outputs_BK.squeeze(1), targets_B, reduction="sum")


class Scores:
    """Accumulates outputs and targets, then gives the metrics of the task.

    Where torch.distributed is up, `compute` adds up what all workers have seen; each of them must call it.

    Args:
        features: Their signature says the task, and they lead back to the units of a regression's target.
    """

    def __init__(self, features: Features) -> None:
        # Imported late: torchmetrics takes seconds to import, and the first steps need none of it.
        from torchmetrics import SumMetric

        self.features = features
        self.task = features.signature.task
        self._metrics = _of_task(self.task, features.signature.num_outputs)
        self._loss: Metric = SumMetric().set_dtype(torch.float64)
        self._rows: Metric = SumMetric().set_dtype(torch.float64)

    def update(self, outputs_BK: Tensor, targets_B: Tensor) -> None:
        """Counts rows in.

        Args:
            outputs_BK: Raw outputs of the network, float32, on any device.
            targets_B: As stored: class positions, or standardised targets.
        """
        self.add(*self.judge(outputs_BK, targets_B))

    def judge(self, outputs_BK: Tensor, targets_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `add` needs to know of rows, on the CPU, so that it can be sent on without the outputs.

        Returns:
            Predicted and expected class positions, or values in target units [B]; and the sum of the losses.
        """
        outputs_BK, targets_B = outputs_BK.detach().cpu(), targets_B.cpu()
        loss = loss_sum(self.task, outputs_BK, targets_B).double()
        if self.task == "classification":
            return outputs_BK.argmax(dim=1), targets_B, loss
        return self._in_units(outputs_BK), self._in_units(targets_B.unsqueeze(1)), loss

    def add(self, predicted_B: Tensor, expected_B: Tensor, loss: Tensor) -> None:
        """Counts rows in that `judge` has seen."""
        self._loss.update(loss)
        self._rows.update(float(len(expected_B)))
        for metric in self._metrics.values():
            metric.update(predicted_B, expected_B)

    def compute(self) -> dict[str, float | None]:
        """The metrics by name, None where one is not defined: accuracy, f1 (macro) and loss, or rmse, mae, r2 and loss.

        The loss is the mean over rows, of a regression in standardised units; rmse and mae are in target units.
        """
        num_rows = float(self._rows.compute())
        values = {"loss": float(self._loss.compute()) / max(1.0, num_rows)}
        for name, metric in self._metrics.items():
            # Fewer than two rows have no variance to explain.
            values[name] = float(metric.compute()) if name != "r2" or num_rows > 1 else math.nan
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def _in_units(self, standardised_B1: Tensor) -> Tensor:
        return torch.from_numpy(self.features.unscale(standardised_B1.numpy())).reshape(-1)


def _of_task(task: str, num_outputs: int) -> dict[str, Metric]:
    from torchmetrics import classification, regression

    if task == "classification":
        return {
            "accuracy": classification.MulticlassAccuracy(num_outputs, average="micro").set_dtype(
                torch.float64
            ),
            "f1": classification.MulticlassF1Score(num_outputs, average="macro").set_dtype(
                torch.float64
            ),
        }
    metrics: dict[str, Metric] = {
        "rmse": regression.MeanSquaredError(squared=False),
        "mae": regression.MeanAbsoluteError(),
        "r2": regression.R2Score(),
    }
    return {name: metric.set_dtype(torch.float64) for name, metric in metrics.items()}
