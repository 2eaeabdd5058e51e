"""The live table of a sweep on a terminal: the best trial first, what runs, why others stopped.

Runs in the driver. Where the output is no terminal, or one that cannot show a table, there is a
line for each trial.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raydc.errors import Say
from raydc.tracking import trials
from raydc.tracking.progress import can_draw, format_duration, stop_drawing

# Lines of the terminal beside the rows: two of the table, one that counts what is left out, one for
# the cursor.
_OTHER_LINES = 4
_FEWEST_ROWS = 3
_NUMBER_WIDTH = 6
# The first epochs of a sweep wait for processes, so the pace is not known before.
_FEWEST_EPOCHS = 3
RUNS, WAITS, STOPPED, FINISHED, FAILED = "runs", "waits", "stopped", "finished", "failed"
_STYLES = {RUNS: "bold", STOPPED: "dim", FAILED: "red"}


@dataclass(frozen=True)
class TrialStanding:
    """How a trial that has begun stands.

    Attributes:
        number: Its number in the order of sampling, from 0.
        values: Searched values by spec path.
        state: RUNS, WAITS, STOPPED, FINISHED or FAILED.
        epochs: Epochs after which its metric is known; 0 before the first rung.
        metric: Its best metric so far; None without one.
        why: What it runs to, or why it has stopped; may be empty.
    """

    number: int
    values: dict[str, Any]
    state: str
    epochs: int
    metric: float | None
    why: str


@dataclass(frozen=True)
class SweepStanding:
    """How a sweep stands.

    Attributes:
        trials: Those that have begun, in the order of sampling.
        num_samples: Number of all trials.
        epochs_done: Epochs that have results, of all trials together.
        epochs_left: Epochs that are expected to come.
    """

    trials: Sequence[TrialStanding]
    num_samples: int
    epochs_done: int
    epochs_left: float

    def ranked(self, mode: str) -> list[TrialStanding]:
        """The trials, the best first; those without a metric come last.

        Args:
            mode: Whether the largest or the smallest metric is the best: `max` or `min`.
        """
        sign = -1.0 if mode == "max" else 1.0

        def key(trial: TrialStanding) -> tuple[bool, float, int]:
            return trial.metric is None, sign * (trial.metric or 0.0), trial.number

        return sorted(self.trials, key=key)


@dataclass
class SweepTable:
    """Shows the standing of a sweep while it runs. A context manager.

    Attributes:
        metric: Name of the metric.
        mode: Whether its largest or smallest value is the best: `max` or `min`.
        report: Shows a line that stays.
        console: Where the table is; None takes the standard output if that is a terminal. There is
            no table on one without Unicode, or whose cursor cannot move.
        now_s: A monotonic clock.
    """

    metric: str
    mode: str
    report: Say
    console: Console | None = None
    now_s: Callable[[], float] = time.monotonic
    _live: Live | None = field(default=None, init=False)
    _standing: SweepStanding | None = field(default=None, init=False)
    # Moment and epochs done when the first part of a trial began.
    _first: tuple[float, int] | None = field(default=None, init=False)

    def __enter__(self) -> SweepTable:
        if self.console is None and sys.stdout.isatty():
            self.console = Console(file=sys.stdout)
        if self.console is not None and can_draw(self.console):
            # Drawn by a thread of rich, not for each result: a table takes milliseconds, and a
            # thousand short trials have thousands of results.
            self._live = Live(
                get_renderable=self.render,
                console=self.console,
                transient=True,
                refresh_per_second=2,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            stop_drawing(live)

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes its callbacks into a file that nothing reads; a terminal cannot be written.
        return {**self.__dict__, "_live": None, "console": None}

    def say_end(self, line: str) -> None:
        """Shows that a trial has ended, where no table does."""
        if self._live is None:
            self.report(line)

    def show(self, make_standing: Callable[[], SweepStanding]) -> None:
        """Takes how the sweep stands now; without a terminal nothing is computed.

        Args:
            make_standing: Computes it.
        """
        if self._live is None:
            return
        self._standing = make_standing()
        if self._first is None:
            self._first = self.now_s(), self._standing.epochs_done

    def remaining_s(self) -> float | None:
        """Seconds that the rest is expected to take; None before the first few epochs."""
        if self._standing is None or self._first is None:
            return None
        began_s, done_before = self._first
        done = self._standing.epochs_done - done_before
        # Trials that run at a time and pauses between them are part of this pace.
        pace_s = (self.now_s() - began_s) / max(done, 1)
        return pace_s * self._standing.epochs_left if done >= _FEWEST_EPOCHS else None

    def render(self) -> RenderableType:
        """The table as it looks now."""
        standing = self._standing
        if standing is None or self.console is None:
            return Text("sweep     starts")
        ranked = standing.ranked(self.mode)
        most = max(_FEWEST_ROWS, self.console.height - _OTHER_LINES)
        shown = _choose(ranked, most)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in ("place", "trial", self.metric, "epochs"):
            width = max(len(title), _NUMBER_WIDTH)
            table.add_column(title, justify="right", no_wrap=True, min_width=width)
        # The values get what the reasons leave.
        widest = max((len(_state_text(trial)) for trial in shown), default=0)
        state_width = min(widest, self.console.width // 2)
        table.add_column("state", no_wrap=True, overflow="ellipsis", min_width=state_width)
        table.add_column("values", no_wrap=True, overflow="ellipsis", ratio=1)
        places = {trial.number: place for place, trial in enumerate(ranked, start=1)}
        for trial in shown:
            has_metric = trial.metric is not None
            cells = (
                str(places[trial.number]) if has_metric else "",
                str(trial.number),
                f"{trial.metric:.4f}" if has_metric else "",
                str(trial.epochs or ""),
                _state_text(trial),
                trials.format_values(trial.values),
            )
            # Text, because markup would take brackets in values for styles.
            style = _STYLES.get(trial.state, "")
            texts = [Text(cell, style=style, no_wrap=True, overflow="ellipsis") for cell in cells]
            table.add_row(*texts)
        lines: list[RenderableType] = [self._head(standing), table]
        if len(shown) < len(ranked):
            lines.append(Text(f"          and {len(ranked) - len(shown)} more", style="dim"))
        return Group(*lines)

    def _head(self, standing: SweepStanding) -> Text:
        states = [trial.state for trial in standing.trials]
        num_over = sum(state in (STOPPED, FINISHED, FAILED) for state in states)
        left_s = self.remaining_s()
        parts = [
            f"{num_over} of {standing.num_samples} trials are over",
            f"{states.count(RUNS)} run",
            f"{standing.epochs_done:,} of about {standing.epochs_done + standing.epochs_left:,.0f} "
            "epochs",
            *([] if left_s is None else [f"eta {format_duration(left_s)}"]),
        ]
        text = Text(f"sweep     {', '.join(parts)}")
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def _state_text(trial: TrialStanding) -> str:
    return f"{trial.state}{': ' if trial.why else ''}{trial.why}"


def _choose(ranked: Sequence[TrialStanding], most: int) -> list[TrialStanding]:
    """The rows that fit: what runs, and the best of the others; in the order of all."""
    if len(ranked) <= most:
        return list(ranked)
    # The best one is always there.
    running = [trial for trial in ranked if trial.state == RUNS][: most - 1]
    kept = {trial.number for trial in running}
    for trial in ranked:
        if len(kept) == most:
            break
        kept.add(trial.number)
    return [trial for trial in ranked if trial.number in kept]
