"""Tables of aligned columns in the terminal. In the driver."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

# A pipe has no width; wrapped cells would break `grep` and `awk`.
_PIPE_WIDTH = 240
_GAP = "  "


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[str]) -> None:
    """Prints aligned columns; only names and lists may fold.

    Args:
        titles: Title of each column.
        rows: Cells of each row.
        numbers: Titles of the columns that are aligned to the right.
    """
    # A header without rows looks like a failure; the total says that there is nothing.
    if not rows:
        return
    # Markup would take brackets in names for styles.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, highlight=False, emoji=False, markup=False)
    if not all(cell.isprintable() for row in rows for cell in row):
        console.print(_folding(titles, rows, numbers))
        return
    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    if sum(widths) + len(_GAP) * (len(widths) - 1) > console.width:
        console.print(_folding(titles, rows, numbers))
        return
    # rich takes a millisecond for each line of a table, which shows with a thousand runs.
    is_right = [title in numbers for title in titles]
    console.print(_line(titles, widths, is_right), style="bold")
    console.out("\n".join(_line(row, widths, is_right) for row in rows), highlight=False)


def _folding(titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[str]) -> Table:
    """The table for a narrow terminal, in which some columns fold."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, title in enumerate(titles):
        # Names and lists fold in a narrow terminal; numbers and ages stay on one line.
        free = index == 0 or title in ("used by", "aliases", "used as", "versions", "data set")
        table.add_column(
            title,
            justify="right" if title in numbers else "left",
            no_wrap=not free,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    return table


def _line(cells: Sequence[str], widths: Sequence[int], is_right: Sequence[bool]) -> str:
    """Cells of a row, each as wide as its column."""
    padded = []
    for cell, width, right in zip(cells, widths, is_right, strict=True):
        spaces = " " * (width - cell_len(cell))
        padded.append(spaces + cell if right else cell + spaces)
    return _GAP.join(padded)
