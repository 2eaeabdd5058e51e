"""Several runs in one process, as in the actors of a sweep: it holds the state of one at a time."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from pathlib import Path

import pytest
import torch
from training import StopsAfter, training_spec, write_pictures

from raydc.loop import worker
from raydc.loop.hooks import Hooks
from raydc.storage import Storage


def live_bytes() -> int:
    """Bytes of all tensors that something in this process holds, garbage included."""
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    memory = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(memory.values())


class CountsBytes(StopsAfter):
    """Counts before the third step, whose moments and gradients are those of every later one.

    Not after the run: whether its state is garbage then or gone already is a matter of chance.

    Args:
        step: As of `StopsAfter`.
        held: Takes the number.
    """

    def __init__(self, step: int | None, held: list[int]) -> None:
        super().__init__(step)
        self._held = held

    def before_step(self, step: int) -> None:
        if step == 3:
            self._held.append(live_bytes())
        super().before_step(step)


def train_four_times(folder: Path, stop_after: int | None) -> list[int]:
    """Bytes that this process held in each of four runs. Each ends at `stop_after`, if given."""
    data = write_pictures(Storage(str(folder / "data")))
    model = {"name": "mlp", "hidden": [300, 300]}
    spec = training_spec(str(folder), model=model, train={"epochs": 1, "optimizer": "adamw"})
    held: list[int] = []
    for number in range(4):
        hooks = Hooks(faults=CountsBytes(stop_after, held))
        try:
            worker.fit(spec, Storage(str(folder / f"run{number}")), data, hooks=hooks)
        except KeyboardInterrupt:
            assert stop_after is not None
    # The threads that bring copies to their place end with the run.
    threads = [one for one in threading.enumerate() if one.name.startswith("raydc-checkpoint")]
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return held


@pytest.mark.parametrize("stop_after", [3, None], ids=["killed", "whole"])
def test_a_process_holds_the_state_of_one_run(tmp_path: Path, stop_after: int | None) -> None:
    # In a new process, because other tests leave tensors and threads in this one.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        held = pool.apply(train_four_times, (tmp_path, stop_after))
    # Weights, moments and gradients; a tenth of that is left for what is not the state.
    assert len(held) == 4
    assert held[-1] < 1.1 * held[0]
