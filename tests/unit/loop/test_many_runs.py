"""Several runs in one process, as in the actors of a sweep: it holds the state of one at a time."""

from __future__ import annotations

import gc
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


@pytest.mark.parametrize("stop_after", [3, None], ids=["killed", "whole"])
def test_a_process_holds_the_state_of_one_run(tmp_path: Path, stop_after: int | None) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")))
    model = {"name": "mlp", "hidden": [300, 300]}
    spec = training_spec(str(tmp_path), model=model, train={"epochs": 1, "optimizer": "adamw"})
    # Other tests leave threads that wait for a storage that never answers.
    earlier = set(threading.enumerate())
    held: list[int] = []
    for number in range(4):
        hooks = Hooks(faults=StopsAfter(stop_after))
        try:
            worker.fit(spec, Storage(str(tmp_path / f"run{number}")), data, hooks=hooks)
        except KeyboardInterrupt:
            assert stop_after is not None
        held.append(live_bytes())
    # Weights, moments, gradients and a copy; a tenth of that is left for what is not the state.
    assert held[-1] < 1.1 * held[0]
    # Those that bring copies to their place end with the run.
    later = set(threading.enumerate()) - earlier
    threads = [one for one in later if one.name.startswith("raydc-checkpoint")]
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
