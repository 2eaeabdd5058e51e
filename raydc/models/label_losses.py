"""Losses of tasks in which a row has any number of labels, summed over rows. Used in workers.

The loss of a row is the mean over its labels, so that the learning rate need not follow their
number.

Shape suffixes: B rows, N training rows, K labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from raydc.features import Signature
from raydc.spec.loss import Loss


@dataclass(frozen=True, eq=False)
class LabelLoss:
    """A loss of labels; called with outputs and marks [B, K], it returns the sum over rows.

    Attributes:
        positive_K: Factor of the loss of each label where a row has it; None for 1.
        weights_K: Factor of each label; None for 1.
        smoothing: Fraction of each mark that is moved towards one half.
        gamma: How much less labels count that are predicted well; None for no difference.
    """

    positive_K: Tensor | None
    weights_K: Tensor | None
    smoothing: float
    gamma: float | None

    def __call__(self, outputs_BK: Tensor, marks_BK: Tensor) -> Tensor:
        """Sums the losses of the rows.

        Args:
            outputs_BK: Raw outputs of the network.
            marks_BK: 1 where a row has a label, else 0.
        """
        wanted_BK = marks_BK.to(outputs_BK.dtype)
        if self.smoothing:
            wanted_BK = wanted_BK * (1.0 - self.smoothing) + self.smoothing / 2
        losses_BK = functional.binary_cross_entropy_with_logits(
            outputs_BK, wanted_BK, self.weights_K, reduction="none", pos_weight=self.positive_K
        )
        if self.gamma is not None:
            losses_BK = losses_BK * self._missed(outputs_BK, wanted_BK).pow(self.gamma)
        return losses_BK.mean(1).sum()

    @staticmethod
    def _missed(outputs_BK: Tensor, wanted_BK: Tensor) -> Tensor:
        """One minus the probability of the right answer (Lin et al. 2017, arXiv 1708.02002)."""
        entropies_BK = functional.binary_cross_entropy_with_logits(
            outputs_BK, wanted_BK, reduction="none"
        )
        # -expm1 is 1 - probability, without rounding to 0. Clamped above 0, where a power below 1
        # has no gradient.
        return (-torch.expm1(-entropies_BK)).clamp_min(torch.finfo(torch.float32).tiny)


def make_label_loss(
    loss: Loss,
    signature: Signature,
    read_targets: Callable[[], npt.NDArray[np.int64]],
    device: torch.device,
) -> LabelLoss:
    """Makes the loss of a spec.

    Args:
        loss: Section `train.loss`.
        signature: Labels of the data set.
        read_targets: Returns the marks of all training rows, [N, K]. Called for weights that are
            `balanced` only.
        device: Device of the outputs.
    """
    counts_K, num_rows = np.zeros(len(signature.classes), dtype=np.int64), 0
    if "balanced" in (loss.class_weights, loss.positive_weights):
        marks_NK = read_targets()
        counts_K, num_rows = marks_NK.sum(axis=0, dtype=np.int64), len(marks_NK)
    seen_K = np.maximum(counts_K, 1)
    # A label without rows has no total that could be made equal, so it counts as it would alone.
    mean = counts_K.sum() / max(1, np.count_nonzero(counts_K))
    share_K = np.where(counts_K > 0, mean / seen_K, 1.0)
    by_label = _weights(loss.class_weights, signature, share_K)
    without_K = np.maximum(num_rows - counts_K, 1)
    positive = _weights(loss.positive_weights, signature, without_K / seen_K)
    return LabelLoss(
        None if positive is None else positive.to(device),
        None if by_label is None else by_label.to(device),
        loss.label_smoothing,
        loss.gamma if loss.name == "focal" else None,
    )


def _weights(
    given: str | dict[str, float] | None, signature: Signature, balanced_K: npt.NDArray[np.float64]
) -> Tensor | None:
    if given is None:
        return None
    if isinstance(given, str):
        return torch.from_numpy(balanced_K.astype(np.float32))
    return torch.tensor([given.get(name, 1.0) for name in signature.classes])
