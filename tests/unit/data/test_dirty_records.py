"""Broken and dirty Parquet and JSON Lines files: named with their place, or taken as said."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dirty import DROP, LFS_POINTER, NUM_ROWS, Dirty, check, table

_LABELS = [("no", "yes")[n % 2] for n in range(1, NUM_ROWS + 1)]
_DAY = datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)


def _parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": list(range(1, NUM_ROWS + 1)), "y": _LABELS, **columns}), sink)
    return bytes(sink.getvalue())


def _lines(changes: dict[int, bytes] | None = None) -> bytes:
    lines = [
        json.dumps({"a": n, "b": "uv"[n % 2], "y": _LABELS[n - 1]}).encode()
        for n in range(1, NUM_ROWS + 1)
    ]
    for number, line in (changes or {}).items():
        lines[number - 1] = line
    return b"\n".join([*lines, b""])


_NO_NAME = "Expecting property name enclosed in double quotes"

PARQUET = [
    Dirty(
        "cut off",
        {"r.parquet": _parquet()[:-9]},
        refused=r"^FOLDER/r\.parquet cannot be read: .*\n.*cut off",
    ),
    Dirty(
        "no bytes", {"r.parquet": b""}, refused=r"^FOLDER/r\.parquet cannot be read: .*\n.*cut off"
    ),
    Dirty(
        "pointer of Git LFS",
        {"r.parquet": LFS_POINTER},
        refused=r"^FOLDER/r\.parquet: .*Git LFS.*\n.*git lfs pull",
    ),
    Dirty(
        "CSV under the name",
        {"r.parquet": b"a,y\n1,no\n"},
        refused=r"^FOLDER/r\.parquet cannot be read: .*magic bytes",
    ),
    Dirty(
        "another type in the second file",
        {"0.parquet": _parquet(), "1.parquet": _parquet(a=["x"] * NUM_ROWS)},
        num_rows=2 * NUM_ROWS,
        kinds={"a": "categorical"},
        rows={1: {"a": "1"}, 1001: {"a": "x"}},
        said=(
            r"column 'a' is taken as categorical: it holds number in .*0\.p.*, and text in .*1\.p",
        ),
    ),
    Dirty(
        "decimals, dictionaries, booleans, durations, unsigned",
        {
            "r.parquet": _parquet(
                d=[decimal.Decimal(n) / 8 for n in range(NUM_ROWS)],
                k=pa.array([None, "p", "q"] * 8).dictionary_encode(),
                t=[n % 3 == 0 for n in range(NUM_ROWS)],
                s=[datetime.timedelta(milliseconds=500 * n) for n in range(NUM_ROWS)],
                u=pa.array([2**64 - 1, 1] * 12, pa.uint64()),
            )
        },
        rows={1: {"d": 0, "k": None, "t": "true", "s": 0, "u": 2**64}, 4: {"d": 0.375, "s": 1.5}},
        kinds={"d": "numeric", "k": "categorical", "t": "categorical", "s": "numeric"},
    ),
    Dirty(
        "decimals of 60 digits",
        {"r.parquet": _parquet(d=pa.array([decimal.Decimal(10**50 + n) for n in range(NUM_ROWS)]))},
        rows={3: {"d": int(1e50)}},
    ),
    Dirty(
        "times with a zone and without",
        {
            "0.parquet": _parquet(
                w=pa.array([_DAY] * NUM_ROWS, pa.timestamp("us", "Europe/Berlin"))
            ),
            "1.parquet": _parquet(w=pa.array([_DAY] * NUM_ROWS, pa.timestamp("ms"))),
        },
        num_rows=2 * NUM_ROWS,
        rows={1: {"w": 1714521600}, 1001: {"w": 1714521600}},
    ),
    Dirty(
        "NaN and nulls among numbers",
        {"r.parquet": _parquet(n=[None, float("nan"), 3.0] * 8)},
        rows={1: {"n": None}, 2: {"n": None}, 3: {"n": 3}},
    ),
    Dirty(
        "infinity",
        {"r.parquet": _parquet(n=[1.0, float("-inf"), 3.0] * 8)},
        refused=r"^FOLDER/r\.parquet: row 2: n: -inf is not a finite number",
    ),
    Dirty(
        "target without a value",
        {"r.parquet": _parquet(y=[None, *_LABELS[1:]])},
        refused=r"^FOLDER/r\.parquet: row 1: y: the target is missing, here and in 0 .*\n.*drop",
    ),
    Dirty(
        "target without a value, dropped",
        {"r.parquet": _parquet(y=[None, *_LABELS[1:]])},
        {"clean": {"missing_target": "drop"}},
        num_rows=NUM_ROWS - 1,
        said=("; 1 dropped",),
    ),
    Dirty(
        "maps and structs",
        {
            "r.parquet": _parquet(
                m=pa.array([[("k", 1)]] * NUM_ROWS, pa.map_(pa.string(), pa.int64()))
            )
        },
        refused=r"column 'm' holds map<string, int64.*, which cannot be an input\n.*exclude: \[m\]",
    ),
    Dirty(
        "text that is not UTF-8",
        {
            "r.parquet": _parquet(
                b=pa.array([b"\xff\xfe", b"u"] * 12, pa.binary()).view(pa.string())
            )
        },
        refused=r"^FOLDER/r\.parquet: row 1: b: '\\xff\\xfe' is not UTF-8 text",
    ),
]

JSON_LINES = [
    Dirty("byte order mark", {"r.jsonl": b"\xef\xbb\xbf" + _lines()}, rows={1: {"a": 1}}),
    Dirty(
        "line that is no JSON",
        {"r.jsonl": _lines({3: b"{'a': 3}"})},
        refused=r"^FOLDER/r\.jsonl: line 3: not JSON: .*\n.*one JSON object",
    ),
    Dirty(
        "lines that are no rows, put aside",
        {"r.jsonl": _lines({3: b"{'a': 3}", 5: b"[1]"})},
        {"clean": {"on_error": "quarantine"}},
        num_rows=NUM_ROWS - 2,
        left_out={
            "[1] is not an object": 1,
            f"not JSON: {_NO_NAME}: line 1 column 2 (char 1)": 1,
        },
    ),
    Dirty(
        "one array",
        {"r.jsonl": b"[" + _lines().strip().replace(b"\n", b",\n") + b"]"},
        refused=r"^FOLDER/r\.jsonl: line 1: not JSON: .*\n.*one JSON array; write",
    ),
    Dirty(
        "key twice",
        {"r.jsonl": _lines({2: b'{"a": 1, "a": 2, "y": "no"}'})},
        refused=r"^FOLDER/r\.jsonl: line 2: there are two values of 'a'",
    ),
    Dirty(
        "half a character",
        {"r.jsonl": _lines({2: b'{"a": 2, "b": "\\ud800", "y": "no"}'})},
        refused=r"^FOLDER/r\.jsonl: line 2: b: half a character",
    ),
    Dirty(
        "bytes that are no UTF-8",
        {"r.jsonl": _lines({2: b'{"a": 2, "b": "\xfc", "y": "no"}'})},
        refused=r"^FOLDER/r\.jsonl: line 2: not JSON: .*utf-8",
    ),
    Dirty(
        "NaN and infinity",
        {
            "r.jsonl": _lines(
                {2: b'{"a": NaN, "b": "u", "y": "no"}', 4: b'{"a": Infinity, "y": "no"}'}
            )
        },
        DROP,
        num_rows=NUM_ROWS - 1,
        rows={2: {"a": None}},
        left_out={"a: is not a finite number": 1},
    ),
    Dirty(
        "number of 400 digits",
        {"r.jsonl": _lines({2: b'{"a": 1' + b"0" * 400 + b', "y": "no"}'})},
        refused=r"^FOLDER/r\.jsonl: line 2: a: '10000.*is not a finite number",
    ),
    Dirty(
        "number of 5,000 digits",
        {"r.jsonl": _lines({2: b'{"a": 1' + b"0" * 5000 + b', "y": "no"}'})},
        refused=r"^FOLDER/r\.jsonl: line 2: ",
    ),
    Dirty(
        "nesting of 100,000 levels",
        {"r.jsonl": _lines({2: b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"})},
        refused=r"^FOLDER/r\.jsonl: line 2: not JSON: ",
    ),
    Dirty(
        "objects in a row",
        {"r.jsonl": _lines({2: b'{"a": {"x": 1}, "y": "no"}'})},
        refused=r"^FOLDER/r\.jsonl: line 2: a: an object is not a number",
    ),
    Dirty(
        "keys that some rows lack",
        {"r.jsonl": _lines({2: b'{"y": "no"}'})},
        rows={2: {"a": None, "b": None}},
    ),
]


@table(PARQUET)
def test_parquet_file_is_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)


@table(JSON_LINES)
def test_json_lines_are_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)
