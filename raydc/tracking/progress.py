"""The progress of a run, shown by the driver: a live line on a terminal, lines every few seconds
elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from raydc.errors import Say, describe
from raydc.spec.metric import ALL_SCORES

_LINE_EVERY_S = 5.0
_EPOCH_EVERY_S = 1.0
# Events that are shown as they are. The end of an attempt is not: the restart after it says enough.
_MESSAGES = {
    "checkpoint_delayed": "the checkpoint of step {step} will be tried again: {reason}",
    "checkpoint_failed": "the checkpoint of step {step} was not written, older ones stay: {reason}",
    "checkpoint_skipped": "{checkpoint} does not verify and is skipped: {reason}",
    "best_lost": "{checkpoint}, the best so far, is lost ({reason}): {then}",
    "file_damaged": "{file} cannot be read and is written again: {reason}",
    "recent_state_failed": "peer memory holds no copy of step {step}: {reason}",
    "waits_for_resources": "waiting: room for {fits} of at least {least} worker(s) of {needs}",
    "stood_still": "worker {rank} stood still for {for_s:.0f} s",
    "node_lost": "lost a node: {nodes}",
    "drain_noticed": "a node is about to leave: {nodes}",
    "resize_planned": "there is room for more: {world_size} -> {to} workers",
    "frozen": "{text}",
    "reading": "{text}",
    "passes": "{text}",
    "environment_changed": "the environment has changed, so bits may differ: {changes}",
}
_SHOWN = ("loss", *ALL_SCORES)


class Progress:
    """Turns the records that a run publishes into lines. A context manager.

    Args:
        report: Shows a line that stays.
        batch_size: Rows of a step over all workers, to estimate the remaining time.
        also: Takes every record too, for metrics. Its first failure is a warning, and its last
            record.
        now_s: A monotonic clock.

    Attributes:
        last_step: Completed steps by the newest record; None before the first.
    """

    def __init__(
        self,
        report: Say,
        batch_size: int,
        also: Callable[[dict[str, Any]], None] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self.last_step: int | None = None
        self._also = also
        self._batch_size = batch_size
        self._now_s = now_s
        self._last_line_s = now_s()
        self._held: str | None = None
        self._num_attempts = 0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty() and can_draw(console := Console(file=sys.stdout)):
            self._live = Live(console=console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            stop_drawing(self._live)
        if self._held is not None:
            self._report(self._held)

    def show(self, record: dict[str, Any]) -> None:
        """Shows one published record, if it is of interest to a person."""
        self.last_step = record.get("step", self.last_step)
        self._pass_on(record)
        kind = record["kind"]
        if kind == "progress":
            self._show_position(format_line(record, self._batch_size))
        elif kind == "epoch":
            self._show_epoch(record)
        elif kind == "attempt_started":
            self._show_start(record)
        elif kind in _MESSAGES:
            self.say(f"train     {_MESSAGES[kind].format(**record)}")

    def _pass_on(self, record: dict[str, Any]) -> None:
        if self._also is None:
            return
        try:
            self._also(record)
        except Exception as error:  # noqa: BLE001 - whatever metrics raise, the run matters more.
            self._also = None
            self.say(f"train     warning: this run exports no more metrics: {describe(error)}")

    def _show_start(self, record: dict[str, Any]) -> None:
        self._num_attempts += 1
        place = f"continues after step {record['step']:,}, {_workers(record['world_size'])}"
        if self._num_attempts > 1:
            self.say(f"train     restart {self._num_attempts - 1}: {place}")
        elif record["step"]:
            self.say(f"train     {place}")

    def _show_position(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif self._now_s() - self._last_line_s >= _LINE_EVERY_S:
            self.say(line)

    def _show_epoch(self, record: dict[str, Any]) -> None:
        scores = "  ".join(
            f"{name} {record[name]:.4f}" for name in _SHOWN if record.get(name) is not None
        )
        position = f"epoch {record['epoch']}  step {record['step']:,}"
        # Epochs of a small data set end many times a second: most lines are held back, and the last
        # one is shown when the run ends.
        self._held = f"train     {position}  {record['split']} {scores}"
        if self._now_s() - self._last_line_s >= _EPOCH_EVERY_S:
            self.say(self._held)
            self._held = None

    def say(self, line: str) -> None:
        """Shows a line that stays."""
        self._last_line_s = self._now_s()
        self._report(line)


def can_draw(console: Console) -> bool:
    """Whether a live line or table can be shown.

    rich draws nothing where the cursor cannot move, as in a shell of Emacs. A terminal in Latin-1
    cannot write the sign of a cut text, nor all values.
    """
    return console.is_terminal and not console.is_dumb_terminal and not console.options.ascii_only


def stop_drawing(live: Live) -> None:
    """Draws for the last time; a terminal that is gone must not end what is complete."""
    with contextlib.suppress(OSError, ValueError):
        live.stop()


def format_line(record: dict[str, Any], batch_size: int) -> str:
    """Formats a progress record: step, epoch, loss, rows per second, workers, remaining time.

    Args:
        record: A record of `Journal.publish_progress`.
        batch_size: Rows of a step over all workers.
    """
    # The first record may come before any row was counted.
    rate = max(record["rows_per_s"], 1e-9)
    eta_s = (record["total_steps"] - record["step"]) * batch_size / rate
    parts = (
        f"step {record['step']:,}/{record['total_steps']:,}",
        f"epoch {record['epoch']}/{record['epochs']}",
        f"loss {record['loss']:.4f}",
        f"{rate:,.0f} rows/s",
        _workers(record["world_size"]),
        f"eta {format_duration(eta_s)}",
    )
    return f"train     {'  '.join(parts)}"


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def format_duration(seconds: float) -> str:
    """Formats seconds for people, such as `2m10s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
