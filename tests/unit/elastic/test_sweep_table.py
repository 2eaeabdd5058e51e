"""The live table of a sweep: what it shows, and that nothing is lost without a terminal."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import reported_sweeps
from rich.console import Console
from training import training_spec

from raydc import spec as specs
from raydc.elastic import sweep_table
from raydc.elastic.sweep_table import SweepStanding, SweepTable, TrialStanding
from raydc.elastic.trial_draws import make_draws
from raydc.elastic.trial_ends import TrialEnds
from raydc.elastic.trial_queue import TrialQueue
from raydc.storage import Storage

RATES = [0.01, 0.001, 0.02, 0.0001, 0.06, 0.005]


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def terminal(height: int = 30, width: int = 120) -> Console:
    environment = {"TERM": "xterm"}
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, _environ=environment
    )


def text_of(table: SweepTable) -> list[str]:
    """What the table shows now, without colours."""
    plain = Console(file=io.StringIO(), width=120, height=30)
    plain.print(table.render())
    output = plain.file
    assert isinstance(output, io.StringIO)
    return [line.rstrip() for line in output.getvalue().splitlines()]


class ShownSweep:
    """A sweep over some rates that shows how it stands."""

    def __init__(self, folder: Path, lines: list[str], table: SweepTable) -> None:
        space = {"train.learning_rate": {"grid": RATES}, "model": {"choice": [{"name": "mlp"}]}}
        section = {"space": space, "num_samples": 6, "search_alg": "grid"}
        self.spec = training_spec(str(folder), sweep=section, train={"metric": "accuracy"})
        self.folder, self.table = Storage(str(folder / "sweep")), table
        draws = make_draws(self.spec, specs.to_dict(self.spec), self.folder, lines.append)
        ends = TrialEnds(self.spec, self.folder, draws, lines.append, table.say_end)
        self.queue = TrialQueue(self.spec, self.folder, draws, ends)

    def begin(self) -> dict[str, Any] | None:
        segment = self.queue.next_segment()
        self.table.show(self.queue.standing)
        return segment

    def end(self, segment: dict[str, Any]) -> None:
        reported_sweeps.train_part(self.spec, self.folder / "trials" / segment["key"], segment)
        self.queue.end(segment)
        self.table.show(self.queue.standing)


def test_table_shows_the_best_first_what_runs_and_why_others_stopped(tmp_path: Path) -> None:
    lines: list[str] = []
    with SweepTable("accuracy", "max", print, terminal(), clock := Clock()) as table:
        sweep = ShownSweep(tmp_path, lines, table)
        first, second = sweep.begin() or {}, sweep.begin() or {}
        head, titles, *rows = text_of(table)
        assert head == "sweep     0 of 6 trials are over, 2 run, 0 of about 12 epochs"
        assert titles.split() == ["place", "trial", "accuracy", "epochs", "state", "values"]
        assert [row.split()[:2] for row in rows] == [["0", "runs:"], ["1", "runs:"]]
        clock.now_s += 5
        sweep.end(first)
        sweep.end(second)
        assert "eta" not in text_of(table)[0]
        clock.now_s += 4
        sweep.end(sweep.begin() or {})
        standing = sweep.queue.standing()
        eta_s = round(9 / standing.epochs_done * standing.epochs_left)
        assert text_of(table)[0].endswith(f" epochs, eta {eta_s}s")
        # Tune pickles what calls the table.
        assert b"SweepTable" in pickle.dumps(table)
        while (segment := sweep.begin()) is not None:
            clock.now_s += 5
            sweep.end(segment)
        head, _, *rows = text_of(table)
        assert head.startswith("sweep     6 of 6 trials are over, 0 run, ")
        assert head.endswith(" epochs, eta 0s")
    scores = [float(row.split()[2]) for row in rows if row.split()[0] != row.split()[1]][:5]
    assert len(rows) == 6
    assert scores == sorted(scores, reverse=True)
    assert rows[0].split()[0] == "1"
    assert " finished " in rows[0]
    assert sum("stopped: place " in row for row in rows) >= 1
    # Diverged: without a metric it is the last, and has no place.
    assert "no metric after 1 epoch" in rows[-1]
    # The table shows the ends of trials; only what a person has to know stays above it.
    assert lines == []


def test_without_a_terminal_each_end_is_a_line_and_nothing_is_computed(tmp_path: Path) -> None:
    lines: list[str] = []

    def refuse() -> SweepStanding:
        raise AssertionError("computed")

    with SweepTable("accuracy", "max", lines.append) as table:
        table.show(refuse)
        sweep = ShownSweep(tmp_path, lines, table)
        while (segment := sweep.begin()) is not None:
            sweep.end(segment)
    assert len(lines) == 6
    assert all(" of 6 ended after " in line for line in lines)


def test_rows_that_do_not_fit_are_counted_and_the_running_ones_stay() -> None:
    trials = [
        TrialStanding(number, {"a": "[b]"}, sweep_table.STOPPED, 1, number / 100, "")
        for number in range(40)
    ]
    trials[3] = TrialStanding(3, {}, sweep_table.RUNS, 1, 0.03, "to epoch 9")
    trials += [TrialStanding(40, {}, sweep_table.RUNS, 0, None, "to epoch 1")]
    standing = SweepStanding(trials, 50, 40, 20.0)
    with SweepTable("accuracy", "max", print, terminal(height=12)) as table:
        table.show(lambda: standing)
        _, _, *rows, more = text_of(table)
    assert [int(row.split()[1]) for row in rows[:-1]] == [39, 38, 37, 36, 35, 34, 3]
    assert rows[-1].split()[:2] == ["40", "runs:"]
    assert rows[0].endswith("a=[b]")
    assert more.strip() == "and 33 more"


@pytest.mark.parametrize("mode", ["max", "min"])
def test_ranking_follows_the_mode(mode: str) -> None:
    metrics = [0.2, None, 0.1, 0.2]
    trials = [TrialStanding(n, {}, "waits", 1, one, "") for n, one in enumerate(metrics)]
    ranked = SweepStanding(trials, 4, 4, 0.0).ranked(mode)
    assert [one.number for one in ranked] == ([0, 3, 2, 1] if mode == "max" else [2, 0, 3, 1])


@pytest.mark.parametrize(
    ("encoding", "kind"), [("ascii", "xterm"), ("latin-1", "xterm"), ("utf-8", "dumb")]
)
def test_terminal_that_cannot_show_a_table_gets_lines(
    tmp_path: Path, encoding: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", kind)
    lines: list[str] = []
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, force_terminal=True, width=40, height=30)
    with SweepTable("accuracy", "max", lines.append, console) as table:
        sweep = ShownSweep(tmp_path, lines, table)
        while (segment := sweep.begin()) is not None:
            sweep.end(segment)
    assert len(lines) == 6


def test_terminal_that_is_gone_does_not_end_a_sweep() -> None:
    class Gone(io.StringIO):
        is_gone = False

        def write(self, text: str) -> int:
            if self.is_gone:
                raise OSError(5, "Input/output error")
            return super().write(text)

    file = Gone()
    console = terminal()
    console.file = file
    with SweepTable("accuracy", "max", print, console) as table:
        table.show(lambda: SweepStanding([], 4, 0, 4.0))
        file.is_gone = True
    assert table.render() is not None
