"""Recent states in the memory of the cluster: holders outlive the process that wrote a state."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from raydc.elastic import mailbox
from raydc.elastic.peer_memory import MemoryHolder, PeerMemory
from raydc.errors import CheckpointError
from raydc.storage import sha256


def copy(step: int, weights: bytes = b"weights") -> Any:
    """As much of a `Copy` as a holder needs."""
    files = {"model.safetensors": memoryview(bytearray(weights)), "state.json": b"{}"}
    hashes = {name: sha256(content) for name, content in files.items()}
    return SimpleNamespace(step=step, files=files, meta={"data_hash": "d"}, hashes=lambda: hashes)


def test_memory_holder_keeps_two_states_of_one_history() -> None:
    holder = MemoryHolder()
    holder.start_history("first", 0)
    for step, content in ((1, b"123"), (5, b"12"), (10, b"1"), (15, b"12345")):
        assert holder.keep("first", step, {}, {}, {"a": np.frombuffer(content, np.uint8)})
    assert holder.list_steps() == [10, 15]
    # A restart resumes after step 10, so the state of step 15 has no history.
    holder.start_history("second", 10)
    assert holder.list_steps() == [10]
    assert not holder.keep("first", 20, {}, {}, {})
    assert holder.read(20) is None
    kept = holder.read(10)
    assert kept is not None
    assert kept[2]["a"].tobytes() == b"1"


def put_when_up(memory: PeerMemory, state: Any) -> None:
    """Waits for the holder, which the first state starts."""
    deadline_s = time.monotonic() + 60.0
    while not memory.put(state):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_engine")
def test_peer_memory_outlives_the_process_that_wrote_it() -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # The worker cannot import it.
    handle = mailbox.create()

    @ray.remote(num_cpus=0)
    class Worker:
        def put(self) -> None:
            memory = PeerMemory(handle)
            memory.forget_after(0)
            for step in (5, 10, 15):
                put_when_up(memory, copy(step, bytes([step]) * 200_000))

    worker = Worker.remote()
    ray.get(worker.put.remote(), timeout=120)
    ray.kill(worker)

    memory = PeerMemory(handle)
    found = memory.newest()
    assert found is not None
    assert (found.step, found.meta) == (15, {"data_hash": "d"})
    assert found.files == {"model.safetensors": bytes([15]) * 200_000, "state.json": b"{}"}
    assert memory.read(10).files["model.safetensors"] == bytes([10]) * 200_000
    with pytest.raises(CheckpointError, match="no holder has the state of step 7"):
        memory.read(7)

    memory.forget_after(15)
    damaged = copy(20)
    damaged.hashes = lambda: {"model.safetensors": "0", "state.json": "0"}
    put_when_up(memory, damaged)
    again = PeerMemory(handle).newest()
    assert again is not None
    assert again.step == 15
    ray.kill(handle)
