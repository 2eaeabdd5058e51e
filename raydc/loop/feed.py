"""The batches of each step, from shards on disk to tensors on the device. Runs in each worker.

The order of an epoch is computed for many steps at once and equals `order.batch_rows` of each step.

Shape suffixes: B rows of this worker, G rows of the step over all workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydc import order
from raydc.data.shards import Rows
from raydc.loop.augment import Augmenter
from raydc.loop.group import World
from raydc.loop.step import Shards

# One call of `order.permute` has a fixed cost of some dozen numpy calls; 32 steps share it.
_STEPS_AT_ONCE = 32
# Batches that wait in memory for a GPU: enough to hide a slow read, few enough to fit.
_NUM_AHEAD = 3
# Longest time in which the thread notices that its batches are no longer read.
_PUT_TIMEOUT_S = 0.1
# More row ids than this would hide the rest of an error message.
_MAX_SHOWN_ROWS = 64

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The rows of one step that one worker computes.

    Attributes:
        ids_G: int64 [G], row ids of the step over all workers.
        x: [B, *shape], rows of this worker.
        y_B: Targets of these rows.
        shards: Index and slice of B of each logical shard of this worker that has rows.
    """

    ids_G: order.Ids
    x: Tensor
    y_B: Tensor
    shards: Shards


@dataclass(frozen=True)
class Feed:
    """Reads the training rows of one worker.

    Attributes:
        rows: All training rows.
        seed: Seed of the order.
        batch_size: Rows of a full step, over all workers.
        num_shards: Logical shards of a step.
        world: The place of this worker.
        augment: Changes images by epoch and row id; None leaves rows as they are.
    """

    rows: Rows
    seed: int
    batch_size: int
    num_shards: int
    world: World
    augment: Augmenter | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, a smaller last one included."""
        return order.num_steps(len(self.rows), self.batch_size)

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """Yields the batches of some steps of an epoch.

        Args:
            epoch: Epoch, from 0.
            start: First step to yield, counted inside the epoch from 0.
            stop: End of the steps, exclusive.
        """
        batches = (self._load(epoch, ids_G) for ids_G in self._ids(epoch, start, stop))
        # On a CPU a thread would only take cores away from the step that it tries to hide behind.
        return batches if self.world.device.type == "cpu" else read_ahead(batches)

    def ids_of(self, epoch: int, step: int) -> order.Ids:
        """Row ids of this worker in a step of an epoch, both counted from 0."""
        ids_G = order.batch_rows(self.seed, epoch, step, len(self.rows), self.batch_size)
        shards, mine = self._shards_of(len(ids_G))
        return ids_G[shards[mine[0]].start : shards[mine[-1]].stop]

    def describe_rows(self, epoch: int, step: int) -> str:
        """Names the rows of this worker in a step of an epoch, for an error message."""
        ids_B = self.ids_of(epoch, step)
        more = ", ..." if len(ids_B) > _MAX_SHOWN_ROWS else ""
        shown = ", ".join(map(str, ids_B[:_MAX_SHOWN_ROWS]))
        return f"its {len(ids_B)} training rows there: {shown}{more}"

    def _ids(self, epoch: int, start: int, stop: int) -> Iterator[order.Ids]:
        for first in range(start, stop, _STEPS_AT_ONCE):
            low = first * self.batch_size
            high = min(min(first + _STEPS_AT_ONCE, stop) * self.batch_size, len(self.rows))
            positions = np.arange(low, high, dtype=np.int64)
            ids = order.permute(positions, len(self.rows), self.seed, epoch)
            for offset in range(0, len(ids), self.batch_size):
                yield ids[offset : offset + self.batch_size]

    def _shards_of(self, num_rows: int) -> tuple[list[slice], range]:
        """Slices of a step of `num_rows` rows by logical shard, and the shards of this worker."""
        mine = order.shards_of_rank(self.num_shards, self.world.rank, self.world.world_size)
        return order.logical_shards(num_rows, self.num_shards), mine

    def _load(self, epoch: int, ids_G: order.Ids) -> Batch:
        shards, mine = self._shards_of(len(ids_G))
        # The shards of a worker are contiguous, so its rows are one slice of the step.
        first, last = shards[mine[0]].start, shards[mine[-1]].stop
        x, y_B = self.rows.gather(ids_G[first:last])
        if self.augment is not None:
            x = self.augment(epoch, ids_G[first:last], x)
        own = [
            (shard, slice(shards[shard].start - first, shards[shard].stop - first))
            for shard in mine
        ]
        # A step of fewer rows than logical shards leaves some shards empty.
        own = [(shard, rows) for shard, rows in own if rows.start < rows.stop]
        return Batch(ids_G, self._to_device(x), self._to_device(y_B), own)

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.world.device.type == "cpu":
            return tensor
        # Only a copy from pinned memory can overlap with the computation.
        return tensor.pin_memory().to(self.world.device, non_blocking=True)


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Runs an iterator in a thread, a few items ahead, and yields its items in the same order.

    Whatever the iterator raises is raised here, after the items before it.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(_NUM_AHEAD)
    closed = threading.Event()

    def put(item: T | BaseException | None) -> bool:
        # With a timeout: a consumer that stops early must not leave the thread blocked for ever.
        while not closed.is_set():
            try:
                ready.put(item, timeout=_PUT_TIMEOUT_S)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread.
            put(error)

    threading.Thread(target=work, name="raydc-feed", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
