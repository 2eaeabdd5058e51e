"""The position of a run and what it has seen."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from training import training_spec

from raydc.checkpoint.state import State, judge_epoch, pack_state, unpack_state
from raydc.checkpoint.store import Found
from raydc.errors import CheckpointError

METRICS = {
    "accuracy": 0.123456789012345678,
    "f1": 0.123456789012345678,
    "loss": 1e-17,
    "train_loss": None,
}


@pytest.mark.parametrize("num_rows", [10**3, 10**6, 10**9])
def test_pack_state_of_a_long_run_is_small_and_exact(num_rows: int) -> None:
    step = 90 * -(-num_rows // 256) - 1
    state = State(
        step, 1e9 / 3, num_rows - 1, 0.123456789012345678, step, 10, METRICS, "early_stop"
    )
    content = pack_state(state)
    assert len(content) < 1024
    assert State(**json.loads(content)) == state
    assert unpack_state(Found(step, {}, {"state.json": content})) == state


def test_unpack_state_with_unknown_field_is_refused() -> None:
    content = json.dumps({**asdict(State()), "mood": "good"}).encode()
    with pytest.raises(CheckpointError, match=r"checkpoint of step 3: state\.json: .*mood"):
        unpack_state(Found(3, {}, {"state.json": content}))


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
