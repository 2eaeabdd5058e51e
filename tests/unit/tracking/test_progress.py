"""Progress lines of a driver."""

from __future__ import annotations

import io
import itertools
import sys
from typing import Any

import pytest

from raydc.tracking.progress import Progress, format_line

RECORD = {
    "kind": "progress",
    "step": 1200,
    "total_steps": 2340,
    "epoch": 6,
    "epochs": 10,
    "loss": 0.34567,
    "rows_per_s": 20480.0,
    "world_size": 2,
}


def test_format_line_shows_position_rate_and_remaining_time() -> None:
    assert format_line(RECORD, 256) == (
        "train     step 1,200/2,340  epoch 6/10  loss 0.3457  20,480 rows/s  2 workers  eta 14s"
    )
    assert format_line({**RECORD, "rows_per_s": 100.0, "world_size": 1}, 256).endswith(
        "100 rows/s  1 worker  eta 48m38s"
    )
    assert format_line({**RECORD, "rows_per_s": 0.0}, 256)  # No division by zero.


def test_progress_shows_events_and_only_the_last_of_many_epochs() -> None:
    lines: list[str] = []
    epoch = {"kind": "epoch", "step": 7, "split": "validation", "loss": 0.5, "accuracy": 0.75}
    with Progress(lines.append, 256, now_s=lambda: 0.0) as progress:
        progress.show({"kind": "attempt_started", "step": 0, "world_size": 2})
        progress.show({**epoch, "epoch": 1})
        progress.show({**epoch, "epoch": 2})
        progress.show(
            {
                "kind": "checkpoint_skipped",
                "checkpoint": "step_00000014",
                "reason": "a.bin is damaged",
            }
        )
        progress.show(
            {"kind": "checkpoint_delayed", "step": 21, "reason": "No space left on device"}
        )
        progress.show(
            {"kind": "checkpoint_failed", "step": 21, "reason": "No space left on device"}
        )
        progress.show({"kind": "attempt_started", "step": 7, "world_size": 1})
    assert lines == [
        "train     step_00000014 does not verify and is skipped: a.bin is damaged",
        "train     the checkpoint of step 21 will be tried again: No space left on device",
        "train     the checkpoint of step 21 was not written, older ones stay: "
        "No space left on device",
        "train     restart 1: continues after step 7, 1 worker",
        "train     epoch 2  step 7  validation loss 0.5000  accuracy 0.7500",
    ]


def test_metrics_that_raise_are_one_warning_and_the_progress_goes_on() -> None:
    lines: list[str] = []
    calls: list[int] = []

    def also(record: dict[str, Any]) -> None:
        calls.append(record["step"])
        raise UnicodeEncodeError("ascii", "größe", 2, 4, "ordinal not in range(128)")

    with Progress(lines.append, 256, also, now_s=lambda: 0.0) as progress:
        for step in (7, 8):
            progress.show({"kind": "attempt_started", "step": step, "world_size": 1})
    assert calls == [7]
    assert progress.last_step == 8
    warning, first, second = lines
    assert warning.startswith(
        "train     warning: this run exports no more metrics: UnicodeEncodeError: 'ascii' codec"
    )
    assert "after step 7" in first
    assert "restart 1" in second


class Terminal(io.TextIOWrapper):
    """A terminal that may be gone."""

    is_gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.is_gone:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize(
    ("encoding", "kind"), [("latin-1", "xterm"), ("utf-8", "dumb"), ("utf-8", "xterm")]
)
def test_a_terminal_that_cannot_show_a_live_line_gets_lines(
    monkeypatch: pytest.MonkeyPatch, encoding: str, kind: str
) -> None:
    # So narrow that the line is cut.
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", kind)
    terminal, moments = Terminal(io.BytesIO(), encoding=encoding), itertools.count(0.0, 10.0)
    monkeypatch.setattr(sys, "stdout", terminal)
    lines: list[str] = []
    with Progress(lines.append, 256, now_s=lambda: next(moments)) as progress:
        progress.show(RECORD)
        terminal.is_gone = (encoding, kind) == ("utf-8", "xterm")
    assert lines == ([] if terminal.is_gone else [format_line(RECORD, 256)])
