"""The progress of a run, as the driver shows it: a live line on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from raydc.errors import Say
from raydc.spec.train import ALL_SCORES

_LINE_EVERY_S = 5.0
# What the controller tells. Of an attempt's end, what follows says enough.
_TOLD = {
    "checkpoint_delayed": "train     the checkpoint of step {step} is tried again: {reason}",
    "checkpoint_failed": "train     the checkpoint of step {step} was not written, the ones before stay: {reason}",
    "recent_state_failed": "train     the state of step {step} is in no other memory: {reason}",
    "waits_for_resources": "train     waits: there is room for {fits} of at least {least} worker(s) of {needs}",
    "node_lost": "train     lost a node: {nodes}",
    "drain_noticed": "train     a node is about to go: {nodes}",
    "resize_planned": "train     there is room for more: {world_size} -> {to} workers",
}
_SHOWN = ("loss", *ALL_SCORES)


class Progress:
    """Turns the records that a run publishes into lines. A context manager.

    Args:
        report: Takes lines that stay.
        batch_size: Rows of a step, for the time that is left.
        also: Takes the same records.
    """

    def __init__(
        self,
        report: Say,
        batch_size: int,
        also: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        self._report = report
        self._also = also
        self._batch_size = batch_size
        self._last_line_s = time.monotonic()
        self._held: str | None = None
        self._num_attempts = 0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty():
            self._live = Live(
                console=Console(file=sys.stdout), transient=True, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._held is not None:
            self._report(self._held)

    def take(self, record: dict[str, Any]) -> None:
        """One published record."""
        self._also(record)
        kind = record["kind"]
        if kind == "progress":
            self._show(line_of(record, self._batch_size))
        elif kind == "epoch":
            self._end_epoch(record)
        elif kind == "checkpoint_skipped":
            self.say(
                f"train     {record['checkpoint']} does not verify and is skipped: {record['reason']}"
            )
        elif kind == "attempt_started":
            self._start(record)
        elif kind in _TOLD:
            self.say(_TOLD[kind].format(**record))
        elif kind == "environment_changed":
            self.say(f"train     not as when the run began, bits may differ: {record['changes']}")

    def _start(self, record: dict[str, Any]) -> None:
        self._num_attempts += 1
        workers = _workers(record["world_size"])
        if self._num_attempts > 1:
            self.say(
                f"train     restart {self._num_attempts - 1}: goes on after step {record['step']:,}, {workers}"
            )
        elif record["step"]:
            self.say(f"train     goes on after step {record['step']:,}, {workers}")

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._last_line_s >= _LINE_EVERY_S:
            self.say(line)

    def _end_epoch(self, record: dict[str, Any]) -> None:
        # Epochs of a small data set end many times a second: of those in a hurry only the last is shown.
        scores = "  ".join(
            f"{name} {record[name]:.4f}" for name in _SHOWN if record.get(name) is not None
        )
        self._held = f"train     epoch {record['epoch']}  step {record['step']:,}  {record['split']} {scores}"
        if time.monotonic() - self._last_line_s >= 1.0:
            self.say(self._held)
            self._held = None

    def say(self, line: str) -> None:
        """A line that stays."""
        self._last_line_s = time.monotonic()
        self._report(line)


def line_of(record: dict[str, Any], batch_size: int) -> str:
    """Step, epoch, loss, rows per second, workers and the time that is left."""
    rate = max(record["rows_per_s"], 1e-9)
    eta_s = (record["total_steps"] - record["step"]) * batch_size / rate
    return (
        f"train     step {record['step']:,}/{record['total_steps']:,}  epoch {record['epoch']}/{record['epochs']}  "
        f"loss {record['loss']:.4f}  {rate:,.0f} rows/s  {_workers(record['world_size'])}  eta {_duration(eta_s)}"
    )


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
