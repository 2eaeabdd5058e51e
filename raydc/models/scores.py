"""Metrics of a model by task, with torchmetrics, which also adds them up over workers.

Used in workers, and in the pool that evaluates bundles. Sums are kept in float64, so that the
digits that are printed or compared do not depend on which worker judged which rows. Whatever
training minimises, the metric `loss` is the default loss of the task, so that runs can be compared.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raydc.features import Features
from raydc.models.losses import plain_loss_sum

if TYPE_CHECKING:
    from torchmetrics import Metric


class Scores:
    """Accumulates outputs and targets, then computes the metrics of the task.

    If torch.distributed is initialised, `compute` adds up the rows of all workers, and each worker
    must call it.

    Args:
        features: Features of the model, which hold the task and the units of the target.
    """

    def __init__(self, features: Features) -> None:
        # Imported late: torchmetrics takes seconds to import, and the first steps need none of it.
        from torchmetrics import SumMetric

        self.features = features
        self.task = features.signature.task
        self._metrics = _make_metrics(self.task, features.signature.num_outputs)
        self._loss: Metric = SumMetric().set_dtype(torch.float64)
        self._rows: Metric = SumMetric().set_dtype(torch.float64)

    def update(self, outputs_BK: Tensor, targets_B: Tensor) -> None:
        """Scores rows and adds them.

        Args:
            outputs_BK: Raw outputs of the network, float32, on any device.
            targets_B: Stored targets: class positions, or standardised values.
        """
        self.add(*self.judge(outputs_BK, targets_B))

    def judge(self, outputs_BK: Tensor, targets_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reduces rows to what `add` needs, which is small enough to be sent to another process.

        Args:
            outputs_BK: Raw outputs of the network, float32, on any device.
            targets_B: Stored targets: class positions, or standardised values.

        Returns:
            Predicted and expected class positions, or values in units of the target, [B] each; and
            the sum of the losses, float64. All on the CPU.
        """
        # The rest is done on the CPU in float64, which gives the same digits on every device.
        outputs_BK, targets_B = outputs_BK.detach().cpu(), targets_B.cpu()
        loss = plain_loss_sum(self.task, outputs_BK, targets_B).double()
        if self.task == "classification":
            return outputs_BK.argmax(dim=1), targets_B, loss
        return (
            self._to_target_units(outputs_BK),
            self._to_target_units(targets_B.unsqueeze(1)),
            loss,
        )

    def add(self, predicted_B: Tensor, expected_B: Tensor, loss: Tensor) -> None:
        """Adds rows that `judge` has reduced.

        Args:
            predicted_B: Predicted class positions, or values in units of the target.
            expected_B: Expected class positions or values, in the same form.
            loss: Sum of the losses of these rows.
        """
        self._loss.update(loss)
        self._rows.update(float(len(expected_B)))
        for metric in self._metrics.values():
            metric.update(predicted_B, expected_B)

    def compute(self) -> dict[str, float | None]:
        """Computes the metrics over all rows added.

        Returns:
            accuracy, f1 (macro) and loss, or rmse, mae, r2 and loss; None for one that is not
            defined. The loss is the mean over rows, for a regression in standardised units; rmse
            and mae are in units of the target.
        """
        num_rows = float(self._rows.compute())
        values = {"loss": float(self._loss.compute()) / max(1.0, num_rows)}
        for name, metric in self._metrics.items():
            # Fewer than two rows have no variance to explain.
            values[name] = float(metric.compute()) if name != "r2" or num_rows > 1 else math.nan
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def _to_target_units(self, standardised_B1: Tensor) -> Tensor:
        return torch.from_numpy(self.features.unscale(standardised_B1.numpy())).reshape(-1)


def _make_metrics(task: str, num_outputs: int) -> dict[str, Metric]:
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
