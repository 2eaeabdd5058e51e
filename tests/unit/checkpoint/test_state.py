"""The position of a run and what it has seen."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from raydc.checkpoint.state import State, pack_state, unpack_state
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


def test_a_step_changes_the_step_and_the_rows_of_a_state_alone() -> None:
    state = State(3, 0.5, 8, 0.25, 2, 1, METRICS, None, 0.75)
    assert state.after_step(4) == replace(state, step=4, loss_rows=12)
    assert state == State(3, 0.5, 8, 0.25, 2, 1, METRICS, None, 0.75)


def test_unpack_state_with_unknown_field_is_refused() -> None:
    content = json.dumps({**asdict(State()), "mood": "good"}).encode()
    with pytest.raises(CheckpointError, match=r"checkpoint of step 3: state\.json: .*mood"):
        unpack_state(Found(3, {}, {"state.json": content}))
