"""Processes of vLLM when their replica is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from raydc.serve.replica import vllm_worker

WAIT_MS = 60_000
# The worker says its number when it watches, and the engine its own before it waits for that one.
_WORKER = (
    f"import time, os, {vllm_worker.__name__}; print(os.getpid(), flush=True); time.sleep(1e6)"
)
_ENGINE = f"""
import os, subprocess, sys
print(os.getpid(), flush=True)
subprocess.run([sys.executable, "-c", {_WORKER!r}])
"""


def start(code: str, owner: str) -> subprocess.Popen[str]:
    """A process that starts another one below it, and names a replica to it."""
    above = f"""
import os, subprocess, sys, time
os.environ[{vllm_worker.OWNER!r}] = {owner}
subprocess.Popen([sys.executable, "-c", {code!r}])
time.sleep(1e6)
"""
    return subprocess.Popen([sys.executable, "-c", above], stdout=subprocess.PIPE, text=True)


def has_ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(WAIT_MS))


@pytest.mark.parametrize("code", [_WORKER, _ENGINE], ids=["in the engine", "below the engine"])
def test_engine_and_worker_end_with_a_replica_that_is_killed(code: str) -> None:
    with start(code, "str(os.getpid())") as replica:
        assert replica.stdout is not None
        numbers = [int(replica.stdout.readline()) for _ in range(1 + (code is _ENGINE))]
        descriptors = [os.pidfd_open(one) for one in numbers]
        try:
            replica.kill()
            assert [has_ended(one) for one in descriptors] == [True] * len(numbers)
        finally:
            for one in descriptors:
                os.close(one)


def test_a_worker_whose_replica_has_ended_already_ends_the_engine() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with start(_WORKER, repr(str(ended.pid))) as engine:
        assert engine.wait(WAIT_MS / 1000) == -signal.SIGKILL
