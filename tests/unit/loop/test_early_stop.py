"""The decision after an epoch: best so far or not, and whether the run ends."""

from __future__ import annotations

from typing import Any

from raydc.checkpoint.state import State
from raydc.loop.early_stop import judge_epoch
from raydc.spec.resolved import ResolvedTrain

TOTAL_STEPS = 100


def resolved_train(mode: str = "max", **early_stop: float) -> ResolvedTrain:
    value: dict[str, Any] = {"logical_shards": 1, "metric": "accuracy", "mode": mode}
    if early_stop:
        value["early_stop"] = early_stop
    return ResolvedTrain(**value)


def after(train: ResolvedTrain, *metrics: float | None) -> list[State]:
    """States after epochs of ten steps with these validation metrics."""
    states = [State()]
    for epoch, metric in enumerate(metrics, start=1):
        before = states[-1]
        state = State(
            step=10 * epoch,
            best_metric=before.best_metric,
            best_step=before.best_step,
            epochs_without=before.epochs_without,
        )
        record = {"split": "validation", "accuracy": metric, "loss": 1.0}
        states.append(judge_epoch(state, record, train, TOTAL_STEPS))
    return states[1:]


def test_judge_epoch_stops_after_patience_epochs_without_improvement() -> None:
    states = after(resolved_train(patience=2), 0.5, 0.6, 0.6, 0.55)
    assert [state.reason for state in states] == [None, None, None, "early_stop"]
    assert (states[-1].best_metric, states[-1].best_step) == (0.6, 20)


def test_judge_epoch_small_gain_is_best_but_no_improvement() -> None:
    states = after(resolved_train(patience=2, min_delta=0.1), 0.5, 0.55, 0.58)
    assert [state.reason for state in states] == [None, None, "early_stop"]
    assert (states[-1].best_metric, states[-1].best_step) == (0.58, 30)


def test_judge_epoch_mode_min_prefers_less() -> None:
    assert [state.best_metric for state in after(resolved_train("min"), 0.5, 0.4, 0.6)] == [
        0.5,
        0.4,
        0.4,
    ]


def test_judge_epoch_diverged_metric_is_no_improvement() -> None:
    states = after(resolved_train(patience=1), 0.5, None)
    assert (states[-1].reason, states[-1].best_step) == ("early_stop", 10)


def test_judge_epoch_last_step_completes_the_run() -> None:
    states = after(resolved_train(), *[0.5] * 10)
    assert [state.reason for state in states] == [None] * 9 + ["completed"]
