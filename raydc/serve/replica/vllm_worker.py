"""Ends the processes of vLLM when their replica has died. Runs in the workers of vLLM.

vLLM ends them when the replica ends them, but not when it is killed: then they would keep the GPU,
and the replica in its place could not load the model (vllm-project/vllm#55510). vLLM loads the
class that `worker_extension_cls` names in each worker, before the weights.
"""

from __future__ import annotations

import os
import select
import signal
import threading

# Name of the variable with the process id of the replica.
OWNER = "RAYDC_VLLM_OWNER"


class WatchedWorker:
    """Part of a worker of vLLM; its module does the work."""


def watch_owner(owner: int) -> None:
    """Ends this process, and that of the engine above it, when another process has ended.

    Args:
        owner: Process id of the replica.
    """
    # With one GPU the engine is this process, and the replica the parent.
    engine = os.getppid() if os.getppid() != owner else None
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        _end(engine)
    threading.Thread(
        target=_wait_and_end, args=(descriptor, engine), name="owner", daemon=True
    ).start()


def _wait_and_end(descriptor: int, engine: int | None) -> None:
    poll = select.poll()
    # Readable when the process has ended, which is as long as this one may have to wait.
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    _end(engine)


def _end(engine: int | None) -> None:
    # Another process may have the number of an engine that has ended.
    if engine is not None and os.getppid() == engine:
        os.kill(engine, signal.SIGKILL)
    os._exit(1)


if OWNER in os.environ:
    watch_owner(int(os.environ[OWNER]))
