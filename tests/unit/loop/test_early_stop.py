"""The decision after an epoch: best so far or not, and whether the run ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from training import training_spec

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


def test_judge_epoch_gain_of_exactly_min_delta_is_no_improvement() -> None:
    states = after(resolved_train(patience=1, min_delta=0.25), 0.25, 0.75, 1.0)
    assert [state.reason for state in states] == [None, None, "early_stop"]


def test_judge_epoch_takes_no_training_loss_for_a_validation() -> None:
    train = training_spec("x", train={"metric": "loss"}).train
    state = judge_epoch(State(step=10), {"split": "train", "loss": 0.5}, train, TOTAL_STEPS)
    assert (state.best_metric, state.best_step) == (None, None)
    assert state.metrics == {"loss": 0.5}


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


@pytest.mark.parametrize(
    ("epochs", "best_step"),
    [
        ([(0.7, 0.566), (0.7, 0.549)], 20),
        ([(0.7, 0.5), (0.7, 0.5), (0.7, 0.6)], 10),
        ([(0.7, 0.5), (0.6, 0.1)], 10),
        ([(0.7, 0.5), (0.7, None)], 10),
        ([(0.5, 0.1), (0.7, 0.5), (0.7, 0.3)], 30),
    ],
)
def test_judge_epoch_takes_the_lower_loss_of_equal_metrics(
    epochs: list[tuple[float, float | None]], best_step: int
) -> None:
    train, state = resolved_train(patience=3, min_delta=0.0), State()
    for number, (accuracy, loss) in enumerate(epochs, start=1):
        record = {"split": "validation", "accuracy": accuracy, "loss": loss}
        state = judge_epoch(replace(state, step=10 * number), record, train, TOTAL_STEPS)
    assert state.best_step == best_step
    # A tie is not an improvement that early stop would wait for.
    accuracies = [accuracy for accuracy, _ in epochs]
    assert state.epochs_without == len(epochs) - 1 - accuracies.index(max(accuracies))


def test_judge_epoch_after_a_state_of_an_older_version_keeps_its_best() -> None:
    state = State(step=20, best_metric=0.7, best_step=10)
    record = {"split": "validation", "accuracy": 0.7, "loss": 0.1}
    assert judge_epoch(state, record, resolved_train(), TOTAL_STEPS).best_step == 10


@pytest.mark.parametrize(
    ("mode", "metrics", "best_step", "stops_at"),
    [
        ("max", [0.5, 0.6, 0.6, 0.6], 20, 4),
        ("max", [0.5, 0.505, 0.507, 0.9], 30, 3),
        ("min", [0.5, 0.4, 0.3, 0.2], 40, None),
        ("max", [None, None, 0.1, 0.2], None, 2),
    ],
)
def test_judge_epoch_finds_best_and_stops_after_patience(
    mode: str, metrics: list[float | None], best_step: int | None, stops_at: int | None
) -> None:
    early_stop = {"patience": 2, "min_delta": 0.01}
    metric = "accuracy" if mode == "max" else "loss"
    train = training_spec("x", train={"early_stop": early_stop, "metric": metric}).train
    state = State()
    for epoch, value in enumerate(metrics, start=1):
        record = {"split": "validation", metric: value, "train_loss": 1.0}
        state = judge_epoch(replace(state, step=10 * epoch), record, train, 1000)
        if state.reason:
            break
    assert (state.best_step, epoch if state.reason else None) == (best_step, stops_at)
