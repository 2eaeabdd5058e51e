"""A CUDA stream, or a thread, for communication during the backward pass. Runs in each worker."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class CommStream:
    """Runs work in the order of submission, in parallel with what the caller computes.

    Args:
        device: Device of the tensors. On a GPU the work runs on a separate stream, on a CPU in a
            thread that is started at the first submission.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            if device.type == "cuda"
            else None
        )
        self._thread: ThreadPoolExecutor | None = None
        self._tasks: list[Future[None]] = []

    def submit(self, work: Callable[[], None]) -> None:
        """Starts work after all that was submitted before."""
        if self._stream is not None:
            # The gradients that it sends are computed on the current stream.
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                work()
            return
        if self._thread is None:
            # One thread: collective operations must run in the same order on all ranks.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="raydc-reduction")
        self._tasks.append(self._thread.submit(work))

    def wait(self) -> None:
        """Waits for the submitted work, or orders later GPU work after it.

        Raises what the work raised.
        """
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()
