"""Dirty targets, dates, splits and keys, in files and in rows of queries and functions."""

from __future__ import annotations

import datetime
import decimal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dirty import NUM_ROWS, Dirty, check, csv, table

from raydc.data import split_rules

_LABELS = [("no", "yes")[n % 2] for n in range(1, NUM_ROWS + 1)]
_EVERY = range(1, NUM_ROWS + 1)


def _targets(*labels: str) -> dict[str, bytes]:
    cells = (labels * NUM_ROWS)[:NUM_ROWS]
    return {"r.csv": csv({n: f"{n},{'uv'[n % 2]},{cells[n - 1]}" for n in _EVERY})}


def _times(changes: dict[int, str] | None = None) -> dict[str, bytes]:
    texts = {n: f"2024-03-{n:02}" for n in _EVERY} | (changes or {})
    return {"r.csv": csv({n: f"{n},{text},{_LABELS[n - 1]}" for n, text in texts.items()})}


_BY_TIME = {"split": {"by": "time", "column": "b", "test_fraction": 0.25}}

TARGETS = [
    Dirty(
        "constant label",
        _targets("no"),
        refused=r"target 'y': all training rows have the same label, 'no'",
    ),
    Dirty(
        "constant number",
        _targets("2.5"),
        {"task": "regression"},
        said=("one value",),
    ),
    Dirty(
        "no label at all",
        _targets(""),
        refused=r"target 'y': no row has a value\n.*24 rows were checked",
    ),
    Dirty(
        "label missing in a row",
        {"r.csv": csv({5: "5,u,"})},
        refused=r"^FOLDER/r\.csv: row 5: y: the target is missing, here and in 0 .*\n.*drop",
    ),
    Dirty(
        "label missing in a row, dropped",
        {"r.csv": csv({5: "5,u,"})},
        {"clean": {"missing_target": "drop"}},
        num_rows=NUM_ROWS - 1,
        said=("; 1 dropped",),
    ),
    Dirty(
        "label missing in a row, put aside",
        {"r.csv": csv({5: "5,u,"})},
        {"clean": {"on_error": "quarantine"}},
        num_rows=NUM_ROWS - 1,
        left_out={"y: the target is missing": 1},
        listed=(
            {
                "file": "r.csv",
                "row": 5,
                "column": "y",
                "value": None,
                "reason": "the target is missing",
            },
        ),
    ),
    Dirty("labels 1, 1.0 and 2", _targets("1", "1.0", "2"), classes=("1", "2")),
    Dirty(
        "labels that differ in case and blanks",
        _targets("no", "No", "no ", "yes"),
        classes=("No", "no", "no ", "yes"),
        said=(r"target 'y': 'No' .* differ only in blanks, case",),
    ),
    Dirty(
        "label outside the classes",
        {"r.csv": csv({3: "3,v,maybe"})},
        {"classes": ["no", "yes"]},
        refused=r"^FOLDER/r\.csv: row 3: y: label 'maybe' is not one of data\.classes\n.*no, yes",
    ),
    Dirty(
        "label outside the classes, dropped",
        {"r.csv": csv({3: "3,v,maybe"})},
        {"classes": ["no", "yes"], "clean": {"on_error": "drop"}},
        num_rows=NUM_ROWS - 1,
        left_out={"y: is not one of data.classes": 1},
    ),
    Dirty(
        "text among targets that are numbers",
        {"r.csv": csv({n: f"{n},u,{n if n != 7 else 'seven'}" for n in _EVERY})},
        {"task": "regression"},
        refused=r"^FOLDER/r\.csv: row 7: y: 'seven' is not a number\n.*task: classification",
    ),
    Dirty(
        "infinite target, dropped",
        {"r.csv": csv({n: f"{n},u,{n if n != 7 else 'inf'}" for n in _EVERY})},
        {"task": "regression", "clean": {"on_error": "drop"}},
        num_rows=NUM_ROWS - 1,
        left_out={"y: is not a finite number": 1},
    ),
]

SPLITS = [
    Dirty("dates of one form", _times(), _BY_TIME, said=("test 6",)),
    Dirty(
        "dates with zones, without and with a Z",
        _times({1: "2024-03-01T23:30:00-08:00", 2: "2024-03-02T00:10:00Z", 3: "2024-03-03 12:00"}),
        _BY_TIME,
        said=("test 6",),
    ),
    Dirty(
        "date of another form",
        _times({9: "03/09/2024"}),
        _BY_TIME,
        refused=r"^FOLDER/r\.csv: row 9: b: '03/09/2024' is not a time: neither .*\n.*drop",
    ),
    Dirty(
        "date that is missing, dropped",
        _times({9: ""}),
        {**_BY_TIME, "clean": {"on_error": "drop"}},
        num_rows=NUM_ROWS - 1,
        left_out={f"b: {split_rules.NO_TIME}": 1},
    ),
    Dirty(
        "dates as inputs",
        _times(),
        kinds={"b": "categorical"},
        said=(r"column 'b'.*dates?",),
    ),
    Dirty(
        "split of another name",
        {
            "r.csv": csv(
                {n: f"{n},{('train', 'test', 'tset')[n % 3]},{_LABELS[n - 1]}" for n in _EVERY}
            )
        },
        {"split": {"by": "column", "column": "b"}},
        refused=r"^FOLDER/r\.csv: row 2: b: 'tset' names no split: it must be train",
    ),
]


def rows(change: dict[str, Any] | None = None, at: int = 3) -> Iterator[dict[str, Any]]:
    """Rows of a function of the user, one of them changed."""
    for n in _EVERY:
        yield {"id": n, "a": n, "y": _LABELS[n - 1], **((change or {}) if n == at else {})}


def exact_values() -> Iterator[dict[str, Any]]:
    """Rows with types of Python that are no plain numbers."""
    for n, row in enumerate(rows(), start=1):
        day = datetime.date(1970, 1, n)
        yield {**row, "d": decimal.Decimal(n) / 8, "day": day, "t": n % 2 == 0}


def late_columns() -> Iterator[dict[str, Any]]:
    """Rows of which the first lack a column."""
    for n, row in enumerate(rows(), start=1):
        yield {**row, "late": n} if n > 20 else row


def huge() -> Iterator[dict[str, Any]]:
    """Rows with a number beyond 64 bits."""
    return rows({"a": 2**70})


def mixed() -> Iterator[dict[str, Any]]:
    """Rows with a text among numbers."""
    return rows({"a": "much"})


def listed() -> Iterator[dict[str, Any]]:
    """Rows with an object in a cell."""
    return rows({"a": {"x": 1}})


def _function(name: str, key: str = "id") -> dict[str, Any]:
    return {"source": {"function": f"test_dirty_values:{name}", "key": key}}


def _database(cells: Sequence[tuple[Any, ...]]) -> Any:
    def write(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "r.db")) as database:
            database.execute("CREATE TABLE t (id, a, y)")
            database.executemany("INSERT INTO t VALUES (?, ?, ?)", cells)
            database.commit()

    return write


def _cells(changes: dict[int, tuple[Any, ...]] | None = None) -> list[tuple[Any, ...]]:
    changed = changes or {}
    return [changed.get(n, (n, n * 0.5, _LABELS[n - 1])) for n in _EVERY]


_QUERY = {"source": {"sql": "SELECT * FROM t", "connection": "sqlite:///FOLDER/r.db", "key": "id"}}
# Nothing lies in the folder of rows that a function makes.
_NONE: dict[str, bytes] = {}

KEYED = [
    Dirty("query", _database(_cells()[::-1]), _QUERY, rows={4: {"a": 1.5}}),
    Dirty(
        "key without a value",
        _database(_cells({4: (None, 1, "no")})),
        _QUERY,
        refused=r"^query .*: row 4 has no id, which is the key",
    ),
    Dirty(
        "key twice",
        _database(_cells({4: (3, 1, "no")})),
        _QUERY,
        refused=r"^query .*: rows 3 and 4 have the same id, '3'",
    ),
    Dirty(
        "key as number and as text",
        _database(_cells({4: ("3", 1, "no")})),
        _QUERY,
        refused=r"^query .*: rows 3 and 4 have the same id, '3'",
    ),
    Dirty(
        "NULL among numbers", _database(_cells({4: (4, None, "no")})), _QUERY, rows={5: {"a": None}}
    ),
    Dirty(
        "text among numbers of SQLite",
        _database(_cells({4: (4, "much", "no")})),
        _QUERY,
        refused=r"^query .*: row with id = 4: a: 'much' is a str, .* value, 0\.5, .*\n.*CAST",
    ),
    Dirty(
        "whole numbers among others of SQLite",
        _database(_cells({4: (4, 7, "no")})),
        _QUERY,
        rows={5: {"a": 7}},
    ),
    Dirty(
        "bytes that are no picture",
        _database([(n, b"\x00\x01", label) for n, label in enumerate(_LABELS, 1)]),
        _QUERY,
        refused=r"^query .*: row with id = 1: a: not a readable image",
    ),
    Dirty(
        "values of a function",
        _NONE,
        _function("exact_values"),
        rows={4: {"d": 0.375, "day": 172800, "t": "false"}},
    ),
    Dirty(
        "columns that come late",
        _NONE,
        _function("late_columns"),
        rows={4: {"late": None}, 25: {"late": 24}} | {},
    ),
    Dirty(
        "number of a function beyond 64 bits",
        _NONE,
        _function("huge"),
        rows={4: {"a": 2**70}},
    ),
    Dirty(
        "text among numbers of a function",
        _NONE,
        _function("mixed"),
        refused=r"^function .*: row with id = 3: a: 'much' is a str, .* value, 1, is a number",
    ),
    Dirty(
        "object in a cell",
        _NONE,
        _function("listed"),
        refused=r"^function .*: row with id = 3: a: \{'x': 1\} is a dict, but the first value, 1",
    ),
]


@table(TARGETS)
def test_target_is_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)


@table(SPLITS)
def test_column_of_the_split_is_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)


@table(KEYED)
def test_rows_with_a_key_are_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)
