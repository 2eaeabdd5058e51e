"""The rows of each step, from the shards on disk to tensors on the device.

The order of an epoch is computed for many steps at once; `order.batch_rows` is what it equals.

Shape suffixes: B rows of this worker, G rows of the step over all workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydc import order
from raydc.data.shards import Rows
from raydc.loop.augment import Augmenter
from raydc.loop.step import Shards

_STEPS_AT_ONCE = 32
_NUM_AHEAD = 3


@dataclass(frozen=True)
class Batch:
    """One step, as one worker sees it.

    Attributes:
        ids_G: int64 [G], row ids of the step over all workers.
        x: [B, *shape] rows of this worker.
        y_B: Their targets.
        shards: Index of each logical shard of this worker that has rows, and its slice of B.
    """

    ids_G: order.Ids
    x: Tensor
    y_B: Tensor
    shards: Shards


@dataclass(frozen=True)
class Feed:
    """The training rows of one worker.

    Attributes:
        rows: All training rows.
        seed: Seed of the order.
        batch_size: Rows of a full step over all workers.
        num_shards: Logical shards of a step.
        rank: Of this worker.
        world_size: Workers.
        device: Where batches go to.
        augment: Changes images, by epoch and row ids.
    """

    rows: Rows
    seed: int
    batch_size: int
    num_shards: int
    rank: int
    world_size: int
    device: torch.device
    augment: Augmenter | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; the last may be smaller."""
        return order.num_steps(len(self.rows), self.batch_size)

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """Batches of the steps [start, stop) of an epoch, counted from 0 inside it."""
        batches = (self._load(epoch, ids_G) for ids_G in self._ids(epoch, start, stop))
        return batches if self.device.type == "cpu" else _ahead(batches)

    def _ids(self, epoch: int, start: int, stop: int) -> Iterator[order.Ids]:
        for first in range(start, stop, _STEPS_AT_ONCE):
            low = first * self.batch_size
            high = min(min(first + _STEPS_AT_ONCE, stop) * self.batch_size, len(self.rows))
            ids = order.permute(
                np.arange(low, high, dtype=np.int64), len(self.rows), self.seed, epoch
            )
            for offset in range(0, len(ids), self.batch_size):
                yield ids[offset : offset + self.batch_size]

    def ids_of(self, epoch: int, step: int) -> order.Ids:
        """Row ids of this worker in a step of an epoch, both counted from 0."""
        ids_G = order.batch_rows(self.seed, epoch, step, len(self.rows), self.batch_size)
        shards = order.logical_shards(len(ids_G), self.num_shards)
        mine = order.shards_of_rank(self.num_shards, self.rank, self.world_size)
        return ids_G[shards[mine[0]].start : shards[mine[-1]].stop]

    def _load(self, epoch: int, ids_G: order.Ids) -> Batch:
        shards = order.logical_shards(len(ids_G), self.num_shards)
        mine = order.shards_of_rank(self.num_shards, self.rank, self.world_size)
        first, last = shards[mine[0]].start, shards[mine[-1]].stop
        x, y_B = self.rows.gather(ids_G[first:last])
        if self.augment is not None:
            x = self.augment(epoch, ids_G[first:last], x)
        own = [
            (shard, slice(shards[shard].start - first, shards[shard].stop - first))
            for shard in mine
        ]
        own = [(shard, rows) for shard, rows in own if rows.start < rows.stop]
        return Batch(ids_G, self._to_device(x), self._to_device(y_B), own)

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Runs an iterator in a thread, a few items ahead. Only where a device computes beside the CPU."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(_NUM_AHEAD)
    closed = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed over and raised again in the caller's thread.
            put(error)

    threading.Thread(target=work, name="raydc-feed", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
