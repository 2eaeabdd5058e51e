"""Batching in a replica: joins requests into forward passes without holding any of them back.

A forward pass takes the requests that arrived while the one before it ran; an idle model starts at
once. Only a `wait_timeout_s` above 0 makes a batch wait until it fills. A batch that fails is
computed again in parts, see `splitting`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from raydc.features import Inputs
from raydc.serve.replica.splitting import Array, Outcome, compute_each

Batch = list[tuple[Inputs, asyncio.Future[Array]]]


class Batcher:
    """Joins requests into forward passes of one model. Belongs to one event loop.

    Args:
        forward: Maps inputs [B, *shape] to outputs with B rows.
        max_batch_size: Maximum requests in a forward pass, and maximum rows of joined requests.
            A request with more rows is computed alone.
        wait_timeout_s: How long a batch that is not full waits for more requests.
        executor: Runs `forward`. None runs it on the event loop, which saves two thread switches
            and suits a forward pass of less than a millisecond.

    Attributes:
        batch_sizes: Requests in each of the last forward passes.
        num_splits: Batches that failed and were halved.
    """

    def __init__(
        self,
        forward: Callable[[Inputs], Array],
        max_batch_size: int,
        wait_timeout_s: float = 0.0,
        executor: Executor | None = None,
    ) -> None:
        self.forward = forward
        self.max_batch_size = max_batch_size
        self.wait_timeout_s = wait_timeout_s
        self.executor = executor
        self.batch_sizes: deque[int] = deque(maxlen=1024)
        self.num_splits = 0
        self._waiting: deque[tuple[Inputs, asyncio.Future[Array]]] = deque()
        self._num_rows = 0
        self._is_full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def runs_inline(self) -> bool:
        """Whether forward passes run on the event loop."""
        return self.executor is None

    async def submit(self, x: Inputs) -> Array:
        """Computes one request.

        Args:
            x: Inputs of one request, [B, *shape] with B rows.

        Returns:
            Its outputs [B, K].

        Raises:
            Exception: Whatever `forward` raised for this request alone.
        """
        loop = asyncio.get_running_loop()
        outputs: asyncio.Future[Array] = loop.create_future()
        self._waiting.append((x, outputs))
        self._num_rows += len(x)
        if self._num_rows >= self.max_batch_size:
            self._is_full.set()
        # The batch is taken in the loop's next round, with all requests of this round.
        if self.executor is None and self.wait_timeout_s == 0:
            # Without a wait timeout, `call_soon` is cheaper than a task.
            if len(self._waiting) == 1:
                loop.call_soon(self._drain_inline, 1)
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await outputs

    def _drain_inline(self, num_before: int) -> None:
        """Computes all waiting requests, once a round of the loop brings no more of them.

        `num_before` is the number that waited a round earlier.
        """
        num_waiting = len(self._waiting)
        if num_before < num_waiting and self._num_rows < self.max_batch_size:
            # One more round may bring more. It costs nothing: their bodies must be read anyway.
            asyncio.get_running_loop().call_soon(self._drain_inline, num_waiting)
            return
        while self._waiting:
            if batch := self._take():
                self._compute_inline(batch)

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
            # `batch and`: a request that is larger than a batch is computed alone.
            if batch and num_rows + len(x) > self.max_batch_size:
                break
            self._waiting.popleft()
            self._num_rows -= len(x)
            # A future that is done belongs to a client that has gone or a deadline that is over.
            if not outputs.done():
                batch.append((x, outputs))
                num_rows += len(x)
        return batch

    async def _run(self, batch: Batch) -> None:
        if self.executor is None:
            self._compute_inline(batch)
            return
        self.batch_sizes.append(len(batch))
        inputs = [x for x, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            outcomes = await loop.run_in_executor(self.executor, self._compute, inputs)
        # The executor refuses work when the replica ends.
        except Exception as error:  # noqa: BLE001
            outcomes = [error] * len(batch)
        _deliver(batch, outcomes)

    def _compute_inline(self, batch: Batch) -> None:
        self.batch_sizes.append(len(batch))
        _deliver(batch, self._compute([x for x, _ in batch]))

    def _compute(self, inputs: list[Inputs]) -> list[Outcome]:
        return compute_each(self.forward, inputs, self.count_split)

    def count_split(self) -> None:
        """Counts a batch that was halved."""
        self.num_splits += 1


def _deliver(batch: Batch, outcomes: Sequence[Outcome]) -> None:
    for (_, outputs), outcome in zip(batch, outcomes, strict=True):
        if outputs.done():
            continue
        if isinstance(outcome, Exception):
            outputs.set_exception(outcome)
        else:
            outputs.set_result(outcome)
