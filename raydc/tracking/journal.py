"""What a run writes while it goes: metrics.jsonl, events.jsonl, TensorBoard files, and its progress to the driver.

Losses stay tensors until `flush`, so that no step waits for a device.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raydc import order
from raydc.errors import TrainError
from raydc.storage import Storage
from raydc.tracking import events

Publish = Callable[[dict[str, Any]], None]
_PUBLISH_EVERY_S = 0.5


class Journal:
    """The records of one worker. Every worker keeps one, but only rank 0's is written.

    Args:
        run_folder: Of the run.
        writes: Whether this is rank 0.
        publish: Takes records for whoever watches the run.
    """

    def __init__(self, run_folder: Storage, writes: bool, publish: Publish | None) -> None:
        self.writes = writes
        # A full disk ends no run: the lines wait, and no checkpoint is written before them (see `sync`).
        self._events = events.EventLog(run_folder, "events", patient=True)
        self._metrics = events.EventLog(run_folder, "metrics", patient=True)
        self._publish = publish if writes else None
        self._pending: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        self._board = _tensorboard(run_folder) if writes else None
        self.restart_clock()

    def event(self, kind: str, **fields: Any) -> None:
        """Something happened: to events.jsonl and to whoever watches."""
        if not self.writes:
            return
        record = {"kind": kind, "time_s": round(time.time(), 3), **fields}
        self._events.write(**record)
        if self._publish is not None:
            self._publish(record)

    def unseen(self) -> bytes:
        """Lines of steps that would be lost with this process: they travel with a state in memory."""
        return self._metrics.invisible()

    def start(self, step: int, unseen: bytes) -> None:
        """The first line of an attempt: what was written of steps after `step` no longer counts.

        Args:
            step: Steps done.
            unseen: Lines of the steps before it that nobody could write.
        """
        if self.writes:
            self._metrics.adopt(unseen)
            self._metrics.write(kind="start", step=step)

    def step(self, step: int, epoch: int, loss: Tensor, rate: float, ids: order.Ids) -> None:
        """A step is done.

        Args:
            step: Steps done, this one included.
            epoch: From 1.
            loss: Mean loss over the rows of the step, still on the device.
            rate: Learning rate that it was done with.
            ids: Its row ids over all workers.
        """
        record = {
            "kind": "step",
            "split": "train",
            "step": step,
            "epoch": epoch,
            "lr": rate,
            "rows": len(ids),
        }
        if self.writes:
            record["row_fingerprint"] = str(order.fingerprint(ids))
        self._pending.append(record)
        self._losses.append(loss)
        self._rows_since += len(ids)

    def flush(self, loss_sum: float) -> float:
        """Reads the losses since the last flush and writes their lines.

        Args:
            loss_sum: Loss times rows of the steps before.

        Returns:
            The same with these steps, added one by one: when a flush happens does not show in it.

        Raises:
            TrainError: A loss is infinite or not a number.
        """
        if not self._pending:
            return loss_sum
        losses: list[float] = torch.stack(self._losses).tolist()
        records, self._pending, self._losses = self._pending, [], []
        for record, loss in zip(records, losses, strict=True):
            if not math.isfinite(loss):
                raise TrainError(
                    f"the loss is {loss} at step {record['step']} (learning rate {record['lr']:g})",
                    "Start again with --new and a lower train.learning_rate, or with train.gradient_clip_norm.",
                )
            record["loss"] = loss
            loss_sum += loss * int(record["rows"])
        if self.writes:
            self._metrics.write_all(records)
            self._write_scalars(records[-1], "train")
        return loss_sum

    def progress(self, loss: float, **fields: Any) -> None:
        """Tells whoever watches how far the run is, at most twice a second."""
        elapsed_s = time.monotonic() - self._since
        if self._publish is None or elapsed_s < _PUBLISH_EVERY_S:
            return
        self._publish(
            {"kind": "progress", "loss": loss, "rows_per_s": self._rows_since / elapsed_s, **fields}
        )
        self.restart_clock()

    def restart_clock(self) -> None:
        """Rows per second count from here: called after what is not training."""
        self._since = time.monotonic()
        self._rows_since = 0

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch has ended: its line of metrics."""
        if self.writes:
            self._metrics.write_all([record])
            self._write_scalars(record, record["split"])

    def sync(self) -> None:
        """Makes everything so far visible to readers on any store. Raises OSError. Any thread may call it."""
        if self.writes:
            self._metrics.flush()
            self._events.flush()
            self._flush_scalars()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """All is in the files, also of an attempt that fails. Raises OSError where nothing else went wrong."""
        with contextlib.nullcontext() if kind is None else contextlib.suppress(OSError):
            self.sync()

    def _write_scalars(self, record: dict[str, Any], split: str) -> None:
        numbers = {
            f"{split}/{name}": value for name, value in record.items() if isinstance(value, float)
        }
        self._on_board(lambda board: board.write(numbers, record["step"]))

    def _flush_scalars(self) -> None:
        self._on_board(lambda board: board.flush())

    def _on_board(self, do: Callable[[_TensorBoard], None]) -> None:
        """The pictures are a convenience: a disk that refuses them ends them, not the run."""
        if self._board is None:
            return
        try:
            do(self._board)
        except OSError as error:
            self._board = None
            self.event("tensorboard_stopped", reason=str(error))


class _TensorBoard:
    """A file of TensorBoard. It is written here, not in tensorboardX's thread, which a full disk would end unseen."""

    def __init__(self, folder: str) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        os.makedirs(folder, exist_ok=True)
        self._writer = EventsWriter(f"{folder}/events")

    def write(self, numbers: dict[str, float], step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, number in numbers.items():
            self._writer.write_event(
                Event(wall_time=time.time(), step=step, summary=scalar(name, number))
            )

    def flush(self) -> None:
        self._writer.flush()


def _tensorboard(run_folder: Storage) -> _TensorBoard | None:
    """They are appended to, which only a local folder can."""
    return _TensorBoard(str(run_folder.local_path / "tensorboard")) if run_folder.is_local else None
