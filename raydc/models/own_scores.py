"""Losses and metrics that are functions of the user's own package. Used in workers and drivers.

Both are tried on a few rows before a run begins. A loss must give each row a loss that does not
depend on the other rows: which rows are computed together differs with the number of workers.

Shape suffixes: B rows, N rows in all, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydc.errors import TrainError, first_line
from raydc.features import Signature, answers
from raydc.models.network_parts import model_problem
from raydc.models.user_models import import_function
from raydc.spec.loss import Loss

Array = npt.NDArray[Any]
_LOSS, _METRIC = "train.loss.name", "train.metrics"
_NUM_ROWS = 6
# For rounding, which differs a little with the number of rows.
_TOLERANCE = 1e-4


def sum_losses(
    function: Callable[..., Tensor],
    arguments: Mapping[str, Any],
    outputs_BK: Tensor,
    targets_B: Tensor,
) -> Tensor:
    """Sums the losses of rows by a function of the user's own.

    Args:
        function: Takes `outputs_BK` and `targets_B`, and returns one loss for each row.
        arguments: Keyword arguments of the function, from `train.loss`.
        outputs_BK: Raw outputs of the network.
        targets_B: Class positions, standardised targets, or marks of labels [B, K].

    Raises:
        TrainError: The function does not return one number for each row.
    """
    losses_B = function(outputs_BK, targets_B, **arguments)
    if tuple(losses_B.shape) != (len(targets_B),):
        raise TrainError(
            f"the loss returned {tuple(losses_B.shape)} for {len(targets_B)} rows",
            "It must return one number for each row, [B]; raydc takes the mean.",
        )
    return losses_B.float().sum()


def check_own_loss(loss: Loss, signature: Signature) -> None:
    """Tries a loss of the user's own on a few rows.

    Args:
        loss: Section `train.loss`, whose name is the path of a function.
        signature: Task and classes of the data set.

    Raises:
        SpecError: The function cannot be imported, fails, does not return a number for each row,
            has no gradient, or the loss of a row depends on other rows or on chance.
    """
    function = import_function(loss.name, _LOSS)
    outputs_BK, targets_B = _example(signature)
    outputs_BK.requires_grad_()

    def call(rows: slice) -> Tensor:
        try:
            found = function(outputs_BK[rows], targets_B[rows], **loss.arguments)
        # Functions of users may raise anything.
        except Exception as error:
            raise _problem(_LOSS, f"{loss.name} fails: {_describe(error)}") from error
        count = rows.stop - rows.start
        if not isinstance(found, Tensor) or tuple(found.shape) != (count,):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            message = f"{loss.name} returned {shape} for {count} rows, expected ({count},)"
            raise _problem(_LOSS, message)
        return found

    losses_B = call(slice(0, _NUM_ROWS))
    if not losses_B.requires_grad:
        raise _problem(
            _LOSS, f"{loss.name} has no gradient: its result must be computed from the outputs"
        )
    alone_B = torch.cat([call(slice(row, row + 1)) for row in range(_NUM_ROWS)])
    if not torch.allclose(losses_B, alone_B, rtol=_TOLERANCE, atol=_TOLERANCE):
        message = (
            f"{loss.name} gives a row a different loss alone than together with other rows; which "
            "rows are computed together depends on the number of workers"
        )
        raise _problem(_LOSS, message)


def check_own_metric(name: str, signature: Signature) -> None:
    """Tries a metric of the user's own on a few rows.

    Args:
        name: Path of the function, `module:function`.
        signature: Task and classes of the data set.

    Raises:
        SpecError: The function cannot be imported, fails, or does not return a number.
    """
    function = import_function(name, _METRIC)
    outputs_BK, targets_B = (tensor.numpy() for tensor in _example(signature))
    if signature.task == "regression":
        values = outputs_BK.reshape(targets_B.shape)
    else:
        to_scores = answers.sigmoid if signature.task == "multilabel" else answers.softmax
        values = to_scores(outputs_BK)
    try:
        float(function(values.astype(np.float64), targets_B))
    # A user's code may raise anything.
    except Exception as error:
        message = f"{name} does not return a number for {_NUM_ROWS} rows: {_describe(error)}"
        raise _problem(_METRIC, message) from error


def own_value(name: str, values_N: Array, expected_N: Array) -> float | str:
    """Computes a metric of the user's own over all rows.

    Args:
        name: Path of the function, `module:function`.
        values_N: Probabilities [N, K], or predicted values [N].
        expected_N: Positions of the true classes, marks of true labels [N, K], or true values.

    Returns:
        The value of the metric; or the error of the function, as the reason why there is none.
    """
    function = import_function(name, _METRIC)
    try:
        return float(function(values_N, expected_N))
    # A metric that fails on unusual rows must not end a run of hours.
    except Exception as error:  # noqa: BLE001
        return _describe(error)


def _example(signature: Signature) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    outputs_BK = torch.randn(_NUM_ROWS, signature.num_outputs, generator=random)
    if signature.task == "regression":
        shape = (_NUM_ROWS, signature.num_values) if signature.num_values > 1 else (_NUM_ROWS,)
        return outputs_BK, torch.randn(shape, generator=random)
    positions_B = torch.arange(_NUM_ROWS) % signature.num_outputs
    if signature.task == "multilabel":
        return outputs_BK, torch.eye(signature.num_outputs, dtype=torch.uint8)[positions_B]
    return outputs_BK, positions_B


def _problem(field: str, message: str) -> Exception:
    return model_problem(field, message)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
