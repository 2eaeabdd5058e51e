"""Losses by name, summed over rows. Used in workers, and by the checks before a run.

Shape suffixes: B rows, K outputs (classes, labels, values of a regression).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.errors import Problem, SpecError, did_you_mean
from raydc.features import Signature
from raydc.models import own_scores, user_models
from raydc.models.label_losses import make_label_loss
from raydc.spec.language import LANGUAGE
from raydc.spec.loss import LOSSES, Loss

# Maps outputs [B, K] and targets, [B] or [B, K], to the sum of the rows' losses, a float32 scalar.
LossSum = Callable[[Tensor, Tensor], Tensor]


def plain_loss_sum(task: str, outputs_BK: Tensor, targets_B: Tensor) -> Tensor:
    """The default loss of a task, summed over rows; what `loss` means among the metrics.

    A sum, not a mean: the caller divides once, by the rows of all workers.

    Args:
        task: `classification` for the cross entropy, `regression` for the squared error of the
            standardised target, `multilabel` for the mean binary cross entropy over the labels,
            `language_modelling` for the sum of the outputs, which are losses of tokens.
        outputs_BK: Raw outputs of the network.
        targets_B: int64 class positions; float32 standardised targets, [B], or [B, K] of forecasts
            of several steps, over which the mean is taken; marks of labels [B, K]; or the number of
            tokens of each row whose losses count, int64.

    Returns:
        float32, a scalar.
    """
    if task == "classification":
        return functional.cross_entropy(outputs_BK, targets_B, reduction="sum")
    if task in ("multilabel", LANGUAGE) or targets_B.ndim == 2:
        return plain_losses(task, outputs_BK, targets_B).sum()
    return functional.mse_loss(outputs_BK.squeeze(1), targets_B, reduction="sum")


def plain_losses(task: str, outputs_BK: Tensor, targets_B: Tensor) -> Tensor:
    """The default loss of each row, [B]; see `plain_loss_sum`.

    Args:
        task: `classification`, `regression`, `multilabel` or `language_modelling`; the loss of a
            row of tokens is the sum over its tokens.
        outputs_BK: Raw outputs of the network.
        targets_B: See `plain_loss_sum`.
    """
    if task == "classification":
        return functional.cross_entropy(outputs_BK, targets_B, reduction="none")
    if task == LANGUAGE:
        places_K = torch.arange(outputs_BK.shape[1], device=outputs_BK.device)
        # Chosen, not multiplied: what stands behind the last token may be of any size.
        return outputs_BK.where(places_K < targets_B[:, None], 0.0).sum(1)
    if task == "multilabel":
        marks_BK = targets_B.to(outputs_BK.dtype)
        losses_BK = functional.binary_cross_entropy_with_logits(
            outputs_BK, marks_BK, reduction="none"
        )
        return losses_BK.mean(1)
    if targets_B.ndim == 2:
        return functional.mse_loss(outputs_BK, targets_B, reduction="none").mean(1)
    return functional.mse_loss(outputs_BK.squeeze(1), targets_B, reduction="none")


def divisor_of(task: str) -> Callable[[Tensor], Tensor] | None:
    """What the sum of the losses of a step is divided by, from the targets of some rows.

    Args:
        task: Task of the data set.

    Returns:
        A function of targets [B] to a float32 scalar, which is added up over all rows of a step;
        None if losses are divided by the number of rows.
    """
    return _num_tokens if task == LANGUAGE else None


def _num_tokens(targets_B: Tensor) -> Tensor:
    return targets_B.sum().float()


def check_loss(loss: Loss | None, signature: Signature) -> None:
    """Checks what only the data set can tell about a loss, without reading a row.

    Args:
        loss: Section `train.loss`; None for the default of the task.
        signature: Task and classes of the data set.

    Raises:
        SpecError: A weight names no class or label, or a loss of the user's own does not work.
    """
    if loss is None:
        return
    if ":" in loss.name:
        own_scores.check_own_loss(loss, signature)
    _check_weights(loss, signature)


def _check_weights(loss: Loss, signature: Signature) -> None:
    what = "labels" if signature.task == "multilabel" else "classes"
    for field in ("class_weights", "positive_weights"):
        given = getattr(loss, field)
        for name in given if isinstance(given, dict) else ():
            if name not in signature.classes:
                hint = did_you_mean(name, signature.classes)
                hint = hint or f"they are {', '.join(signature.classes)}"
                message = f"{name!r} is not one of the {what}; {hint}"
                raise SpecError([Problem("", f"train.loss.{field}", message)])


def make_loss(
    loss: Loss | None,
    signature: Signature,
    read_targets: Callable[[], npt.NDArray[np.int64]],
    device: torch.device,
) -> LossSum:
    """Makes the loss of a spec.

    With class weights the sum is still divided by the number of rows, not by the sum of their
    weights, so that the rate of a step does not depend on the classes that it happens to have.

    Args:
        loss: Section `train.loss`; None for the default of the task.
        signature: Task and classes of the data set.
        read_targets: Returns the targets of all training rows: class positions, int64 [N], or
            marks of labels [N, K]. Called for weights that are `balanced` only.
        device: Where the outputs are.

    Raises:
        SpecError: A class weight names no class.
    """
    if loss is None:
        return partial(plain_loss_sum, signature.task)
    if ":" in loss.name:
        function = user_models.import_function(loss.name, "train.loss.name")
        return partial(own_scores.sum_losses, function, loss.arguments)
    _check_weights(loss, signature)
    if signature.task == "multilabel":
        return make_label_loss(loss, signature, read_targets, device)
    if loss.name in LOSSES["regression"]:
        return partial(_regression_loss, _regression(loss))
    weights_K = _class_weights(loss, signature, read_targets)
    on_device_K = None if weights_K is None else weights_K.to(device)
    if loss.name == "focal":
        return partial(_focal, loss.gamma, on_device_K)
    return partial(_cross_entropy, loss.label_smoothing, on_device_K)


def _regression(loss: Loss) -> nn.Module:
    if loss.name == "huber":
        return nn.HuberLoss(reduction="sum", delta=loss.delta)
    return nn.L1Loss(reduction="sum") if loss.name == "mae" else nn.MSELoss(reduction="sum")


def _regression_loss(criterion: nn.Module, outputs_BK: Tensor, targets_B: Tensor) -> Tensor:
    if targets_B.ndim == 2:
        whole: Tensor = criterion(outputs_BK, targets_B) / targets_B.shape[1]
        return whole
    summed: Tensor = criterion(outputs_BK.squeeze(1), targets_B)
    return summed


def _cross_entropy(
    smoothing: float, weights_K: Tensor | None, outputs_BK: Tensor, targets_B: Tensor
) -> Tensor:
    return functional.cross_entropy(
        outputs_BK, targets_B, weights_K, reduction="sum", label_smoothing=smoothing
    )


def _focal(gamma: float, weights_K: Tensor | None, outputs_BK: Tensor, targets_B: Tensor) -> Tensor:
    """Focal loss for several classes (Lin et al. 2017, arXiv 1708.02002)."""
    entropies_B = functional.cross_entropy(outputs_BK, targets_B, reduction="none")
    # -expm1 is 1 - probability, also where the probability is so near to 1 that it would round.
    # Above 0, where a power below 1 has no gradient.
    missed_B = (-torch.expm1(-entropies_B)).clamp_min(torch.finfo(torch.float32).tiny)
    losses_B = missed_B.pow(gamma) * entropies_B
    return (losses_B if weights_K is None else losses_B * weights_K[targets_B]).sum()


def _class_weights(
    loss: Loss, signature: Signature, read_targets: Callable[[], npt.NDArray[np.int64]]
) -> Tensor | None:
    given, classes = loss.class_weights, signature.classes
    if given is None:
        return None
    if given == "balanced":
        counts_K = np.bincount(read_targets(), minlength=len(classes))
        # The weight of a class without rows is never used, but has to be finite.
        mean = counts_K.sum() / np.count_nonzero(counts_K)
        return torch.tensor(mean / np.maximum(counts_K, 1), dtype=torch.float32)
    return torch.tensor([given.get(name, 1.0) for name in classes], dtype=torch.float32)
