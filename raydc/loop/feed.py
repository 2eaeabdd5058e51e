"""The batches of each step, from shards on disk to tensors on the device. Runs in each worker.

`raydc.loop.row_order` says which rows a step has.

Shape suffixes: B rows of this worker, G rows of the step over all workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from raydc import order
from raydc.data.circular_scan import MOST_PARTS, CircularScan
from raydc.data.shards import Rows
from raydc.loop.augment import Augmenter
from raydc.loop.body_outputs import BodyOutputs
from raydc.loop.group import World
from raydc.loop.row_order import LengthGroups, RowOrder
from raydc.loop.sampler import Sampler
from raydc.loop.step import Shards
from raydc.models.row_tensors import RowTensors, move, to_tensors

# Batches that wait in memory for a GPU: enough to hide a slow read, few enough to fit.
_NUM_AHEAD = 3
# The thread notices within this time that its batches are no longer read.
_PUT_TIMEOUT_S = 0.1
# More row ids than this would hide the rest of an error message.
_MAX_SHOWN_ROWS = 64

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The rows of one step that one worker computes.

    Attributes:
        ids_G: int64 [G], row ids of the step over all workers.
        x: Rows of this worker, a tensor [B, *shape] or a record.
        y_B: Targets of these rows.
        shards: Index and slice of B of each logical shard of this worker that has rows.
    """

    ids_G: order.Ids
    x: RowTensors
    y_B: Tensor
    shards: Shards


@dataclass(frozen=True)
class _Share:
    """What of a step is a worker's.

    Attributes:
        rows: Its rows among those of the step.
        shards: As `Batch.shards`.
    """

    rows: slice
    shards: Shards


@dataclass
class _Scan:
    """A reading of rows in passes over the files, that goes on from one epoch to the next.

    Attributes:
        epoch: Epoch of the next step.
        step: The next step, counted inside its epoch.
        rows: x and y of each step.
    """

    epoch: int
    step: int
    rows: Iterator[tuple[Any, Any]]


@dataclass
class Feed:
    """Reads the training rows of one worker.

    Attributes:
        rows: All training rows, or what a frozen body makes of them.
        seed: Seed of the run, from which the order of rows is drawn.
        batch_size: Rows of a full step, over all workers.
        num_shards: Number of logical shards in a step.
        world: Rank of this worker, and number of workers.
        augment: Changes images by epoch, row id and repeat; None leaves rows as they are.
        sampler: Draws rows by class; None takes every row once in an epoch.
        groups: Puts rows of similar length into one step; None leaves them as they are drawn.
    """

    rows: Rows | BodyOutputs
    seed: int
    batch_size: int
    num_shards: int
    world: World
    augment: Augmenter | None = None
    sampler: Sampler | None = None
    groups: LengthGroups | None = None
    _scan: _Scan | None = field(default=None, init=False, repr=False)
    # By the rows of a step: only the last one of an epoch has fewer.
    _shares: dict[int, _Share] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._order = RowOrder(
            self.seed, len(self.rows), self.batch_size, self.sampler, self.groups
        )
        self._is_on_cpu = self.world.device.type == "cpu"

    @property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch, repeated ones counted each time."""
        return self._order.rows_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, a smaller last one included."""
        return order.num_steps(self.rows_per_epoch, self.batch_size)

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """Yields the batches of some steps of an epoch.

        Args:
            epoch: Epoch, from 0.
            start: First step to yield, counted inside the epoch from 0.
            stop: End of the steps, exclusive.
        """
        batches = self._load_all(epoch, start, stop)
        # On a CPU a thread would only take cores away from the step that it tries to hide behind.
        return batches if self._is_on_cpu else read_ahead(batches)

    @property
    def kept_rows(self) -> int:
        """Rows that passes over the files collect in memory; 0 if rows are not read so."""
        return self.rows.reading.kept_rows if isinstance(self.rows, Rows) else 0

    @property
    def reading_note(self) -> str | None:
        """Why rows are not read in the plain way; None if they are."""
        reason = self.rows.reading.reason if isinstance(self.rows, Rows) else None
        if reason is None or not self.kept_rows:
            return reason
        own_rows = self.rows_per_epoch * self._num_own_shards / self.num_shards
        passes = own_rows / (2 * self.kept_rows)
        return (
            f"{reason}, {passes:.1f} in an epoch and one before the first step. More memory, or "
            "RAYDC_WINDOW_MB, makes them fewer"
        )

    def read_first(self, step: int, num_steps: int) -> Iterator[None]:
        """Reads from the files what the first step needs, if rows are collected in passes.

        Without it, `batches` does so, and reads nothing beyond its last step.

        Yields `MOST_PARTS` times, so that workers can tell each other that they are alive.

        Args:
            step: Completed steps of the run, from 0.
            num_steps: Steps of the whole run.
        """
        scan = None
        if self.kept_rows:
            scan = self._circular_scan(self._own_of_run(step, num_steps))
            self._scan = _Scan(*divmod(step, self.steps_per_epoch), iter(scan))
        for part in range(MOST_PARTS):
            while scan is not None and scan.num_read < scan.num_parts * part // MOST_PARTS:
                scan.read_part()
            yield

    def ids_of(self, epoch: int, step: int) -> order.Ids:
        """Row ids of this worker in a step of an epoch, both counted from 0."""
        return self._own(self._order.rows(epoch, step))

    def describe_rows(self, epoch: int, step: int) -> str:
        """Names the rows of this worker in a step of an epoch, for an error message."""
        ids_B = self.ids_of(epoch, step)
        more = ", ..." if len(ids_B) > _MAX_SHOWN_ROWS else ""
        shown = ", ".join(map(str, ids_B[:_MAX_SHOWN_ROWS]))
        return f"its {len(ids_B)} training rows there: {shown}{more}"

    def _share(self, num_rows: int) -> _Share:
        """What of a step of `num_rows` rows is this worker's."""
        share = self._shares.get(num_rows)
        if share is None:
            shards = order.logical_shards(num_rows, self.num_shards)
            mine = order.shards_of_rank(self.num_shards, self.world.rank, self.world.world_size)
            first, last = shards[mine[0]].start, shards[mine[-1]].stop
            # A step of fewer rows than logical shards leaves some shards empty.
            own = [
                (shard, slice(shards[shard].start - first, shards[shard].stop - first))
                for shard in mine
                if shards[shard].start < shards[shard].stop
            ]
            share = self._shares[num_rows] = _Share(slice(first, last), own)
        return share

    def _load_all(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """Yields the batches of some steps, whose rows are read by step or in passes."""
        steps = self._order.steps(epoch, start, stop)
        if not self.kept_rows:
            for ids_G, keys_G in steps:
                yield self._make(epoch, ids_G, keys_G, *self.rows.gather(self._own(ids_G)))
            return
        scan = self._scan
        if scan is None or (scan.epoch, scan.step) != (epoch, start):
            # Another place than the one that was read for: its rows would take memory for nothing.
            self._scan = None
            own = (self._own(ids_G) for ids_G, _ in self._order.steps(epoch, start, stop))
            scan = _Scan(epoch, start, iter(self._circular_scan(own)))
        # Their order is computed once more, because to keep it would take the place of rows.
        for ids_G, keys_G in steps:
            x, y = next(scan.rows)
            is_last = scan.step + 1 == self.steps_per_epoch
            scan.epoch, scan.step = (epoch + 1, 0) if is_last else (epoch, scan.step + 1)
            yield self._make(epoch, ids_G, keys_G, x, y)

    def _circular_scan(self, steps: Iterator[order.Ids]) -> CircularScan:
        assert isinstance(self.rows, Rows)
        rows_per_step = -(-self.batch_size * self._num_own_shards // self.num_shards)
        return CircularScan(self.rows, steps, rows_per_step, self.kept_rows)

    def _own_of_run(self, step: int, num_steps: int) -> Iterator[order.Ids]:
        """Yields the rows of this worker in each step from `step` on, through all epochs."""
        while step < num_steps:
            epoch, start = divmod(step, self.steps_per_epoch)
            stop = min(self.steps_per_epoch, start + num_steps - step)
            for ids_G, _ in self._order.steps(epoch, start, stop):
                yield self._own(ids_G)
            step += stop - start

    @property
    def _num_own_shards(self) -> int:
        mine = order.shards_of_rank(self.num_shards, self.world.rank, self.world.world_size)
        return max(1, len(mine))

    def _own(self, ids_G: order.Ids) -> order.Ids:
        """The rows of this worker: its shards are contiguous, so they are one slice."""
        return ids_G[self._share(len(ids_G)).rows]

    def _make(self, epoch: int, ids_G: order.Ids, keys_G: order.Ids, x: Any, y_B: Any) -> Batch:
        """Makes a batch of the rows of this worker as they are stored."""
        share = self._share(len(ids_G))
        if self.augment is not None:
            x = self.augment.change_rows(epoch, keys_G[share.rows], x)
        tensors, y_tensor_B = to_tensors(x), torch.from_numpy(y_B)
        if not self._is_on_cpu:
            device = self.world.device
            tensors, y_tensor_B = move(tensors, device), move(y_tensor_B, device)
        return Batch(ids_G, tensors, y_tensor_B, share.shards)


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
