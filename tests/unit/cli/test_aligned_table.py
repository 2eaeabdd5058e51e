"""Tables in the terminal: the quick way prints what rich prints."""

from __future__ import annotations

import random

import pytest

from raydc.cli import aligned_table
from raydc.cli.aligned_table import print_table

TITLES = ("run", "state", "step", "used by")
ROWS = [
    ("short", "finished", "1", ""),
    ("名前", "running", "1,000,000", "a, b"),
    ("[bold]no markup[/bold]", "", "", "2 µs"),
]


def printed(capsys: pytest.CaptureFixture[str], rows: list[tuple[str, ...]], is_quick: bool) -> str:
    with pytest.MonkeyPatch.context() as patch:
        if not is_quick:
            patch.setattr(aligned_table, "_GAP", " " * 1000)
        print_table(TITLES, rows, {"step"})
    return capsys.readouterr().out


def test_lines_are_those_of_rich(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, ROWS, is_quick=True) == printed(capsys, ROWS, is_quick=False)
    assert not printed(capsys, [], is_quick=True)
    choose = random.Random(0)
    for _ in range(50):
        rows = [
            tuple(
                "".join(choose.choices("aé名 [/]", k=choose.randrange(12))).strip() for _ in TITLES
            )
            for _ in range(choose.randrange(1, 6))
        ]
        assert printed(capsys, rows, is_quick=True) == printed(capsys, rows, is_quick=False)


def test_a_narrow_terminal_folds_names_and_keeps_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aligned_table, "_PIPE_WIDTH", 30)
    lines = printed(capsys, [("a-long-name-of-a-run", "finished", "1,000", "b")], True).splitlines()
    assert len(lines) > 2
    assert all(len(line) <= 30 for line in lines)
    assert any("1,000" in line for line in lines)


def test_a_line_break_in_a_cell_stays_in_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, [("a\nb", "finished", "1", "")], is_quick=True).splitlines()
    assert [line[:1] for line in lines] == ["r", "a", "b"]
