"""Batches of requests that nobody waits for.

A forward pass takes whatever has queued up while the one before it ran; an idle model starts at once. Only a
`wait_timeout_s` above 0 holds a batch back to let it fill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Batch = list[tuple[Array, asyncio.Future[Array]]]


class Batcher:
    """Joins requests into forward passes of one model. Belongs to one event loop.

    Args:
        forward: [B, *shape] to an array with a row for each.
        max_batch_size: Most requests of a forward pass, and most rows of requests that are joined: a request with
            more rows than that is computed alone.
        wait_timeout_s: How long a batch that is not full waits for more.
        executor: Where `forward` runs; None runs it on the event loop, which saves two thread switches and is
            right for a forward of less than a millisecond.
    """

    def __init__(
        self,
        forward: Callable[[Array], Array],
        max_batch_size: int,
        wait_timeout_s: float = 0.0,
        executor: Executor | None = None,
    ) -> None:
        self.forward = forward
        self.max_batch_size = max_batch_size
        self.wait_timeout_s = wait_timeout_s
        self.executor = executor
        self.batch_sizes: deque[int] = deque(maxlen=1024)
        self._waiting: deque[tuple[Array, asyncio.Future[Array]]] = deque()
        self._num_rows = 0
        self._is_full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def runs_inline(self) -> bool:
        """A forward pass runs on the event loop."""
        return self.executor is None

    async def submit(self, x: Array) -> Array:
        """Outputs [B, K] of one request [B, *shape].

        Raises:
            Whatever `forward` raised for the batch.
        """
        loop = asyncio.get_running_loop()
        outputs: asyncio.Future[Array] = loop.create_future()
        self._waiting.append((x, outputs))
        self._num_rows += len(x)
        if self._num_rows >= self.max_batch_size:
            self._is_full.set()
        # What takes them starts in the loop's next round, with all requests of this one.
        if self.executor is None and self.wait_timeout_s == 0:
            if len(self._waiting) == 1:
                loop.call_soon(self._drain_at_once, 1)
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await outputs

    def _drain_at_once(self, num_before: int) -> None:
        """Where nothing is waited for, a task would cost more than it is good for."""
        num_waiting = len(self._waiting)
        if num_before < num_waiting and self._num_rows < self.max_batch_size:
            # A round of the loop brought more, and so may the next: reading them is work that comes in any case.
            asyncio.get_running_loop().call_soon(self._drain_at_once, num_waiting)
            return
        while self._waiting:
            if batch := self._take():
                self._compute_here(batch)

    async def _drain(self) -> None:
        while self._waiting:
            if self.wait_timeout_s > 0:
                await self._fill()
            batch = self._take()
            if batch:
                await self._run(batch)

    async def _fill(self) -> None:
        self._is_full.clear()
        if self._num_rows < self.max_batch_size:
            try:
                await asyncio.wait_for(self._is_full.wait(), self.wait_timeout_s)
            except TimeoutError:
                return

    def _take(self) -> Batch:
        batch: Batch = []
        num_rows = 0
        while self._waiting:
            x, outputs = self._waiting[0]
            if batch and num_rows + len(x) > self.max_batch_size:
                break
            self._waiting.popleft()
            self._num_rows -= len(x)
            if not outputs.done():  # Its client has gone, or its time is over.
                batch.append((x, outputs))
                num_rows += len(x)
        return batch

    async def _run(self, batch: list[tuple[Array, asyncio.Future[Array]]]) -> None:
        if self.executor is None:
            self._compute_here(batch)
            return
        try:
            y = await asyncio.get_running_loop().run_in_executor(
                self.executor, self.forward, self._join(batch)
            )
        except Exception as error:  # noqa: BLE001 -- a model may raise anything; each request gets it.
            _fail(batch, error)
        else:
            _hand_out(batch, y)

    def _compute_here(self, batch: Batch) -> None:
        try:
            y = self.forward(self._join(batch))
        except Exception as error:  # noqa: BLE001 -- as above.
            _fail(batch, error)
        else:
            _hand_out(batch, y)

    def _join(self, batch: Batch) -> Array:
        self.batch_sizes.append(len(batch))
        return batch[0][0] if len(batch) == 1 else np.concatenate([x for x, _ in batch])


def _fail(batch: Batch, error: Exception) -> None:
    for _, outputs in batch:
        if not outputs.done():
            outputs.set_exception(error)


def _hand_out(batch: Batch, y: Array) -> None:
    start = 0
    for x, outputs in batch:
        if not outputs.done():
            outputs.set_result(y[start : start + len(x)])
        start += len(x)
