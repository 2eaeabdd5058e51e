"""What a worker records while it trains: metrics, events, TensorBoard files, progress.

Runs in every worker; only rank 0 writes. Losses stay tensors until `flush`, so that no step waits
for a device.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydc import order
from raydc.errors import TrainError, describe
from raydc.storage import Storage
from raydc.tracking import events

# Sends a record to the driver, or to another observer of the run.
Publish = Callable[[dict[str, Any]], None]
_PUBLISH_EVERY_S = 0.5
# Lines of steps of a few milliseconds are written together: to open the file takes as long as a
# tenth of such a step.
_WRITE_EVERY_S = 0.5


class Journal:
    """The records of one worker. A context manager: leaving it flushes the files.

    Args:
        run_folder: Takes `events.jsonl`, `metrics.jsonl` and `tensorboard/`.
        writes: Whether this worker writes; true for rank 0 only.
        publish: Takes events and progress; None publishes nothing.
        assert_still_owner: Called before each write; raises RunError once another attempt writes.
    """

    def __init__(
        self,
        run_folder: Storage,
        writes: bool,
        publish: Publish | None,
        assert_still_owner: Callable[[], None] | None = None,
    ) -> None:
        self.writes = writes
        # A full disk does not end a run: lines wait, and checkpoints wait for the lines (see
        # `sync`).
        self._events, self._metrics = (
            events.EventLog(run_folder, stem, True, assert_still_owner)
            for stem in ("events", "metrics")
        )
        self._publish = publish if writes else None
        # One record and one loss for each step since the last flush.
        self._pending: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        # Records with their losses that are not written yet, and the row ids of each.
        self._unwritten: list[dict[str, Any]] = []
        self._row_ids: list[order.Ids] = []
        self._written_s = 0.0
        # TensorBoard appends to its files, which an object store cannot do.
        self._tensorboard = (
            _TensorBoard(run_folder.local_path / "tensorboard")
            if writes and run_folder.is_local
            else None
        )
        self.restart_rate()

    def record_event(self, kind: str, **fields: Any) -> None:
        """Writes an event to events.jsonl and publishes it."""
        if not self.writes:
            return
        record = {"kind": kind, "time_s": round(time.time(), 3), **fields}
        self._events.write(**record)
        self._send(record)

    def _send(self, record: dict[str, Any]) -> None:
        """Publishes a record; an observer that raises is not asked again."""
        if self._publish is None:
            return
        try:
            self._publish(record)
        except Exception as error:  # noqa: BLE001 - nobody has to watch a run.
            self._publish = None
            self.record_event("publishing_stopped", reason=describe(error))

    def unwritten_lines(self) -> bytes:
        """Lines of metrics that would be lost with this process; a state in memory carries them."""
        return self._metrics.invisible()

    def record_start(self, step: int, unwritten: bytes) -> None:
        """Writes the first line of an attempt: earlier lines about steps after `step` do not count.

        Args:
            step: Steps done in the state that the attempt starts from.
            unwritten: Lines about the steps before it that an earlier attempt could not write.
        """
        if self.writes:
            self._metrics.adopt(unwritten)
            self._metrics.write(kind="start", step=step)

    def record_step(self, step: int, epoch: int, loss: Tensor, rate: float, ids: order.Ids) -> None:
        """Keeps the record of a step until the next flush.

        Args:
            step: Steps done, this one included.
            epoch: Epoch of the step, from 1.
            loss: Mean loss over the rows of the step, still on the device.
            rate: Learning rate of the step.
            ids: Row ids of the step, over all workers.
        """
        record = {
            "kind": "step",
            "split": "train",
            "step": step,
            "epoch": epoch,
            "lr": rate,
            "rows": len(ids),
        }
        self._pending.append(record)
        self._losses.append(loss)
        if self.writes:
            self._row_ids.append(ids)
        self._rows_since += len(ids)

    def flush(self, loss_sum: float, may_wait: bool = False) -> float:
        """Reads the losses since the last flush and writes their lines.

        Args:
            loss_sum: Sum of loss times rows over the steps before.
            may_wait: Whether lines may wait for more of them, a fraction of a second; not before
                a checkpoint, whose lines must be there.

        Returns:
            The sum with these steps. They are added one by one, so that the bits of the sum do not
            depend on when flushes happen.

        Raises:
            TrainError: A loss is infinite or not a number.
        """
        if not self._pending:
            # Lines that wait may be all that is left, such as of the step before a checkpoint.
            if not may_wait:
                self._write_steps()
            return loss_sum
        # One transfer from the device for all losses.
        losses: list[float] = torch.stack(self._losses).tolist()
        records, self._pending, self._losses = self._pending, [], []
        now_s = round(time.time(), 3)
        for record, loss in zip(records, losses, strict=True):
            if not math.isfinite(loss):
                raise TrainError(
                    f"the loss is {loss} at step {record['step']} (learning rate {record['lr']:g})",
                    "Start again with --new and a lower train.learning_rate, or with "
                    "train.gradient_clip_norm.",
                )
            record["loss"] = loss
            # Not when its line is written: recovery from a fault is measured with it.
            record["time_s"] = now_s
            loss_sum += loss * int(record["rows"])
        if self.writes:
            self._unwritten += records
            if not may_wait or time.monotonic() - self._written_s >= _WRITE_EVERY_S:
                self._write_steps()
        return loss_sum

    def _write_steps(self) -> None:
        """Writes the lines of the steps whose losses are read. Raises OSError."""
        if not self._unwritten:
            return
        records, self._unwritten = self._unwritten, []
        row_ids, self._row_ids = self._row_ids[: len(records)], self._row_ids[len(records) :]
        # Of all steps at once, because a call of numpy costs more than the rows of a step.
        for record, fingerprint in zip(records, order.fingerprints(row_ids), strict=True):
            # As text: JSON readers elsewhere turn integers beyond 2**53 into floats.
            record["row_fingerprint"] = str(fingerprint)
        self._written_s = time.monotonic()
        self._metrics.write_all(records)
        self._write_scalars(records[-1], "train")

    def publish_progress(self, loss: float, **fields: Any) -> None:
        """Publishes the progress of the run, at most twice a second.

        Args:
            loss: Mean training loss of the epoch so far.
            **fields: Position and size of the run, see `raydc.tracking.progress.format_line`.
        """
        elapsed_s = time.monotonic() - self._since
        if self._publish is None or elapsed_s < _PUBLISH_EVERY_S:
            return
        self._send(
            {"kind": "progress", "loss": loss, "rows_per_s": self._rows_since / elapsed_s, **fields}
        )
        self.restart_rate()

    def restart_rate(self) -> None:
        """Counts rows per second from now on; called after work that is not training."""
        self._since = time.monotonic()
        self._rows_since = 0

    def record_epoch(self, record: dict[str, Any]) -> None:
        """Writes the line of an epoch that has ended."""
        if self.writes:
            self._metrics.write_all([record])
            self._write_scalars(record, record["split"])

    def sync(self) -> None:
        """Makes all records visible to readers on any store, from any thread. Raises OSError."""
        if self.writes:
            self._metrics.flush()
            self._events.flush()
            self._use_tensorboard(_TensorBoard.flush)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Writes what is left. Raises OSError, unless the attempt failed already."""
        with contextlib.nullcontext() if kind is None else contextlib.suppress(OSError):
            self._write_steps()
            self.sync()

    def _write_scalars(self, record: dict[str, Any], split: str) -> None:
        numbers = {
            f"{split}/{name}": value for name, value in record.items() if isinstance(value, float)
        }
        self._use_tensorboard(lambda tensorboard: tensorboard.write(numbers, record["step"]))

    def _use_tensorboard(self, action: Callable[[_TensorBoard], None]) -> None:
        """Charts are a convenience: what refuses them ends the charts, not the run."""
        if self._tensorboard is None:
            return
        try:
            action(self._tensorboard)
        except Exception as error:  # noqa: BLE001 - a library of charts may raise anything.
            self._tensorboard = None
            self.record_event("tensorboard_stopped", reason=describe(error))


class _TensorBoard:
    """A TensorBoard file, written synchronously.

    tensorboardX's own SummaryWriter writes from a thread, which a full disk would end unnoticed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, numbers: dict[str, float], step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import scalar

        # Made with the first number, where a failure is a warning.
        if self._writer is None:
            os.makedirs(self._folder, exist_ok=True)
            self._writer = EventsWriter(f"{self._folder}/events")
        # One event for all numbers: its checksum is computed in Python.
        summary = Summary()
        for name, number in numbers.items():
            summary.MergeFrom(scalar(name, number))
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()
