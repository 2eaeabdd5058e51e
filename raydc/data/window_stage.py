"""Turns blocks of rows into blocks of windows; refuses or counts faults. Runs in the driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from raydc.data import block_tasks, tasks, values, window_cut
from raydc.data.column_scan import BlockScan, merge_scans
from raydc.data.layout import Layout
from raydc.data.lines import count_of
from raydc.data.series_rows import Oddities, Oddity, SeriesReader
from raydc.errors import DataError, Say, did_you_mean
from raydc.spec.resolved import ResolvedData
from raydc.spec.windows import Windows

# A series cannot be divided, so each task gets some series, with about this many rows together.
_ROWS_PER_TASK = 2_000_000
# What to do about a fault, by its kind.
_OPTIONS = {
    "row": "data.clean.on_error: drop leaves such rows out.",
    "repeat": "data.windows.repeats: first or last takes one of them.",
    "gap": "data.windows.gaps: cut makes no window across a gap; ignore takes the rows as they "
    "come.",
    "missing": "data.windows.missing: cut leaves such windows out; previous takes the number "
    "before.",
}
_EFFECTS = {
    "row": "left out",
    "repeat": "left out",
    "gap": "no window reaches across",
    "missing": "numbers that are missing",
}


def cut(
    blocks: Sequence[tasks.BlockRef],
    total: BlockScan,
    data: ResolvedData,
    layout: Layout,
    report: Say,
) -> tuple[list[tasks.BlockRef], BlockScan]:
    """Makes windows of all rows.

    Args:
        blocks: References to the raw rows, one for each block.
        total: Merged scan of these rows.
        data: Section `data` of the spec, with windows.
        layout: Files of the source, from which messages take the place of a row.
        report: Prints a line of progress.

    Returns:
        References to tables of windows, in an order that depends on the rows only, and their scan.

    Raises:
        DataError: A column is missing, a row cannot be used, or there is no window.
    """
    windows = data.windows
    assert windows is not None
    _check_columns(data, windows, total, layout)
    others = _other_columns(data, windows, total)
    _check_types(others, total, layout)
    ends = (layout.first_validation_id, layout.first_test_id)
    starts = tuple(sorted(end for end in ends if end is not None))
    texts = frozenset(name for name, kind in data.features.columns.items() if kind == "text")
    reader = SeriesReader(windows, data.target, others, starts, texts)
    num_parts = -(-total.num_rows // _ROWS_PER_TASK) if windows.key is not None else 1
    parts = [(list(blocks), reader, part, num_parts) for part in range(num_parts)]
    found = tasks.run_calls([partial(examine, *part) for part in parts], "CheckSeries")
    _judge(found, data, windows, layout, report)
    made = tasks.read_blocks([partial(cut_part, *part) for part in parts], "CutWindows")
    scans = tasks.run_calls([partial(scan_windows, block) for block in made], "ScanWindows")
    # Sorted by series: the order of arrival differs from run to run.
    ordered = sorted(
        (
            (one["order"], BlockScan.from_json(one["scan"]), block)
            for one, block in zip(scans, made, strict=True)
            if one["order"] is not None
        ),
        key=lambda item: item[0],
    )
    return [block for *_, block in ordered], merge_scans(scan for _, scan, _ in ordered)


def _other_columns(data: ResolvedData, windows: Windows, total: BlockScan) -> tuple[str, ...]:
    """Columns that the tables of windows keep, beside the past steps and the target."""
    own = (windows.time, windows.key, data.split.own_column)
    names = [name for name in own if name is not None]
    named = (*data.features.columns, *data.features.encodings, *data.features.exclude)
    wanted = dict.fromkeys((*names, *named))
    return tuple(name for name in wanted if name in total.columns and name != data.target)


def _check_columns(data: ResolvedData, windows: Windows, total: BlockScan, layout: Layout) -> None:
    named = [("data.windows.time", windows.time), ("data.target", data.target)]
    named += [("data.windows.key", windows.key)] if windows.key is not None else []
    named += [("data.windows.columns", name) for name in windows.columns or ()]
    for path, name in named:
        if name not in total.columns:
            near = did_you_mean(name, total.columns, starts_sentence=True)
            there = f"There are {', '.join(total.columns)}."
            raise DataError(
                f"{path}: there is no column {name!r} in {layout.files[0].path}",
                f"{near} {there}".lstrip(),
            )
        if name in data.features.exclude:
            raise DataError(
                f"{path}: {name!r} is excluded", "Remove it from data.features.exclude."
            )
    for name in windows.inputs(data.target):
        column = total.columns[name]
        if set(column.kinds) - {"number", "text"}:
            raise DataError(
                f"data.windows.columns: {name!r} does not hold numbers",
                "Leave it out; data.features.columns can make it an input beside the window.",
            )


def _check_types(names: Sequence[str], total: BlockScan, layout: Layout) -> None:
    """Refuses columns whose blocks cannot be joined to one series."""
    for name in names:
        column = total.columns[name]
        if {"list", "image"}.isdisjoint(column.kinds):
            continue
        places = column.shapes if column.kinds == ("list",) else column.first_of_kind
        if len(places) > 1:
            (one, first), (other, second) = sorted(places.items(), key=lambda at: at[1])[:2]
            raise DataError(
                f"column {name!r} holds {one} at {layout.describe_row(first)}, but {other} at "
                f"{layout.describe_row(second)}",
                "Leave it out of data.features.columns.",
            )


def _judge(
    found: Sequence[dict[str, Any]],
    data: ResolvedData,
    windows: Windows,
    layout: Layout,
    report: Say,
) -> None:
    """Raises for the first fault that no option allows, and reports the others."""
    odd = Oddities()
    for part in found:
        odd.merge({name: Oddity(**one) for name, one in part["odd"].items()})
    policies = {
        "row": data.clean.on_error,
        "repeat": windows.repeats,
        "gap": windows.gaps,
        "missing": windows.missing,
    }
    by_kind = {name: name.partition("|")[0] for name in odd}
    # Rows that cannot be read come first, because they may cause the other faults.
    for kind in policies:
        wrong = [one for name, one in odd.items() if by_kind[name] == kind]
        if wrong and policies[kind] == "fail":
            first = min(wrong, key=lambda one: one.row_id)
            raise DataError(f"{layout.describe_row(first.row_id)}: {first.text}", _OPTIONS[kind])
    for name, one in sorted(odd.items(), key=lambda item: item[1].row_id):
        place = layout.describe_row(one.row_id)
        what = name.partition("|")[2]
        report(
            f"{_EFFECTS[by_kind[name]]}: {what}: {count_of(one.count, 'row')}, the first at {place}"
        )
    sums = {key: sum(part[key] for part in found) for key in ("series", "short", "windows", "left")}
    if sums["short"]:
        needed = windows.length + windows.horizon
        report(
            f"note: {sums['short']:,} of {sums['series']:,} series have fewer than the "
            f"{needed:,} rows of a window"
        )
    if not sums["windows"]:
        raise DataError(
            f"there is no window of {windows.length:,} past and {windows.horizon:,} next steps "
            f"in {sums['series']:,} series",
            "Shorten data.windows.length, or let fewer gaps and missing numbers cut the series.",
        )
    left = f"; {sums['left']:,} left out, which lack a number" if sums["left"] else ""
    report(f"{count_of(sums['windows'], 'window')} of {sums['series']:,} series{left}")


def examine(
    blocks: Sequence[tasks.BlockRef], reader: SeriesReader, part: int, num_parts: int
) -> dict[str, Any]:
    """Counts the windows of some series and what is odd about their rows, inside a task.

    Args:
        blocks: References to all blocks, because the rows of a series may be in any of them.
        reader: Collects the rows of the series.
        part: Number of the part to handle, from 0.
        num_parts: Number of parts that all series are divided into.
    """
    rows, odd = reader.read(map(tasks.fetch, blocks), part, num_parts)
    _, places = window_cut.find(rows, reader.windows)
    return {
        "odd": {name: asdict(one) for name, one in odd.items()},
        "series": places.num_series,
        "short": places.num_short,
        "windows": len(places.firsts),
        "left": places.num_missing,
    }


def cut_part(
    blocks: Sequence[tasks.BlockRef], reader: SeriesReader, part: int, num_parts: int
) -> Iterable[pa.Table]:
    """Yields the windows of some series, inside a task.

    Args:
        blocks: References to all blocks.
        reader: Collects the rows of the series.
        part: Number of the part to handle, from 0.
        num_parts: Number of parts that all series are divided into.
    """
    rows, _ = reader.read(map(tasks.fetch, blocks), part, num_parts)
    rows, places = window_cut.find(rows, reader.windows)
    yield from window_cut.tables(rows, places, reader.windows, reader.target, part)


def scan_windows(block: tasks.BlockRef) -> dict[str, Any]:
    """Scans a block of windows, inside a task; its `order` is None if it has none."""
    table = tasks.fetch(block)
    order = values.column_of(table, values.ORDER)[0].as_py() if table.num_rows else None
    return {"order": order, "scan": block_tasks.scan(block)}
