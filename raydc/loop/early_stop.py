"""Decides after each epoch if it is the best so far and if training stops. Runs in each worker."""

from __future__ import annotations

from typing import Any

from raydc.checkpoint.state import State
from raydc.spec.metric import ALL_SCORES, own_names
from raydc.spec.resolved import ResolvedTrain
from raydc.spec.threshold import is_threshold


def judge_epoch(
    state: State, record: dict[str, Any], train: ResolvedTrain, total_steps: int
) -> State:
    """Decides at the end of an epoch whether it is the best so far, and whether the run ends. Pure.

    Args:
        state: State at the end of the epoch, before this decision.
        record: Record of the epoch, with the metric by its name.
        train: Section `train` of a resolved spec, with the metric and `early_stop`.
        total_steps: Steps of the whole run, after which it ends as `completed`.

    Returns:
        The state at the start of the next epoch, or at the end of the run.
    """
    metric = record.get(train.metric) if record["split"] == "validation" else None
    best, best_step, without = state.best_metric, state.best_step, state.epochs_without + 1
    sign = 1.0 if train.mode == "max" else -1.0
    gain = (
        float("inf") if best is None else sign * ((metric if metric is not None else best) - best)
    )
    loss, best_loss = record.get("loss"), state.best_loss
    # On few validation rows many epochs have the same score; the loss tells which is better.
    has_less_loss = loss is not None and best_loss is not None and loss < best_loss
    if metric is not None and (gain > 0 or (gain == 0 and has_less_loss)):
        # A gain of min_delta or less makes this the best epoch, but does not reset the patience.
        least = train.early_stop.min_delta if train.early_stop else 0.0
        without = 0 if gain > least else without
        best, best_step, best_loss = metric, state.step, loss
    reason = None
    if state.step >= total_steps:
        reason = "completed"
    elif train.early_stop is not None and without >= train.early_stop.patience:
        reason = "early_stop"
    own = own_names(train.metrics, train.metric)
    thresholds = filter(is_threshold, record)
    names = (*ALL_SCORES, "loss", "train_loss", *thresholds, *own)
    # The sums of the loss start again at zero.
    return State(
        step=state.step,
        best_metric=best,
        best_step=best_step,
        best_loss=best_loss,
        epochs_without=without,
        metrics={name: record[name] for name in names if name in record},
        reason=reason,
    )
