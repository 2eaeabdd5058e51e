"""Broken and dirty CSV and TSV files: each is named with its place, or taken as the spec says."""

from __future__ import annotations

import gzip
from pathlib import Path

from dirty import NUM_ROWS, Dirty, check, csv, table

_FIRST = {1: {"a": 1, "b": "v"}, 2: {"a": 2, "b": "u"}}
_WINDOWS = csv({2: "2,M\xfcller,no"}).decode().encode("latin-1")
_KEEP = {"clean": {"on_error": "quarantine"}}
_NULLS = dict(zip(range(3, 9), ("NA", "N/A", "null", "-", "?", ""), strict=True))
_BOOLEANS = ("true", "True", "TRUE", "yes", "1")
CASES = [
    Dirty("byte order mark", {"r.csv": b"\xef\xbb\xbf" + csv()}, rows=_FIRST),
    Dirty("utf-16 with a mark", {"r.csv": csv().decode().encode("utf-16")}, rows=_FIRST),
    Dirty(
        "utf-16 without a mark",
        {"r.csv": csv().decode().encode("utf-16-le")},
        refused=r"^FOLDER/r\.csv: the first row has NUL bytes\n.*encoding: utf-16",
    ),
    Dirty(
        "utf-16 without a mark, said",
        {"r.csv": csv().decode().encode("utf-16-le")},
        {"csv": {"encoding": "utf-16"}},
        rows=_FIRST,
    ),
    Dirty(
        "bytes of another encoding",
        {"r.csv": _WINDOWS},
        refused=r"^FOLDER/r\.csv: row 2: b: 'M\\xfcller' is not UTF-8 text\n.*'Müller'.*cp1252",
    ),
    Dirty(
        "encoding that is said",
        {"r.csv": _WINDOWS},
        {"csv": {"encoding": "cp1252"}},
        rows={2: {"b": "Müller"}},
    ),
    Dirty(
        "bytes of another encoding, put aside",
        {"r.csv": _WINDOWS},
        _KEEP,
        num_rows=NUM_ROWS - 1,
        said=(r"left out: b: is not UTF-8 text: 1 row, the first at .*r\.csv: row 2 ",),
        left_out={"b: is not UTF-8 text": 1},
        listed=(
            {
                "file": "r.csv",
                "row": 2,
                "column": "b",
                "value": "M\\xfcller",
                "reason": "is not UTF-8 text",
            },
        ),
    ),
    Dirty(
        "bytes that the said encoding has not",
        {"r.csv": csv({2: "2,\x81,no"}).decode().encode("latin-1")},
        {"csv": {"encoding": "cp1252"}},
        refused=r"^FOLDER/r\.csv: row 2: b: '\\x81' is not cp1252 text",
    ),
    Dirty(
        "quote that is never closed",
        {"r.csv": csv({20: '20,"u,no'})},
        refused=r"^FOLDER/r\.csv: row 20: 2 cells, .*never closed joins.*quotes: none",
    ),
    Dirty(
        "quote that is never closed, put aside",
        {"r.csv": csv({20: '20,"u,no'})},
        _KEEP,
        num_rows=19,
        left_out={"2 cells instead of 3, over 5 lines": 1},
    ),
    Dirty(
        "quote of the last cell that is never closed",
        {"r.csv": csv({20: '20,u,"no'})},
        refused=r"^FOLDER/r\.csv: row 20: its last cell begins with a quote, and holds the rest",
    ),
    Dirty(
        "line break in the last cell",
        {"r.csv": csv({24: '24,u,"no\n"'})},
        {"classes": ["no", "yes", "no\n"]},
        said=("cells with line breaks, 1 in all",),
    ),
    Dirty(
        "quotes that are inches",
        {"r.csv": csv({3: '3,15" screen,yes', 9: '9,"wide,yes'})},
        {"csv": {"quotes": "none"}},
        rows={3: {"b": '15" screen'}, 9: {"b": '"wide'}},
    ),
    Dirty(
        "quoted cells with a comma, a quote and a line break",
        {"r.csv": csv({3: '3,"x, ""y""\nz",yes'})},
        rows={3: {"b": 'x, "y"\nz'}, 4: {"a": 4}},
    ),
    Dirty(
        "row too short",
        {"r.csv": csv({5: "5,u"})},
        refused=r"^FOLDER/r\.csv: row 5: 2 cells, but the header has 3\n.*starts with '5,u'",
    ),
    Dirty(
        "rows too long and too short, put aside",
        {"r.csv": csv({5: "5,u", 9: "9,v,yes,more"})},
        _KEEP,
        num_rows=NUM_ROWS - 2,
        left_out={"2 cells instead of 3": 1, "4 cells instead of 3": 1},
        said=(r"left out: 4 cells instead of 3: 1 row, the first at .*r\.csv: row 9 ",),
    ),
    Dirty(
        "mixed line ends",
        {"r.csv": csv().replace(b"\n", b"\r\n", 5).replace(b"no\n", b"no\r")},
        rows={**_FIRST, 20: {"a": 20}},
    ),
    Dirty("line ends of an old Mac", {"r.csv": csv().replace(b"\n", b"\r")}, rows=_FIRST),
    Dirty("blank lines", {"r.csv": csv().replace(b"\n", b"\n\n", 7)}, rows=_FIRST),
    Dirty("NUL in a cell", {"r.csv": csv({4: "4,u\0,no"})}, rows={4: {"b": "u\0"}, 5: {"a": 5}}),
    Dirty(
        "name twice in the header",
        {"r.csv": csv(header="a,a,y")},
        refused=r"^FOLDER/r\.csv: the header names 'a' twice",
    ),
    Dirty(
        "two columns without a name",
        {"r.csv": csv(header=",,y")},
        refused=r"^FOLDER/r\.csv: the header names '' twice, in columns 1 and 2\n",
    ),
    Dirty(
        "blanks around names",
        {"r.csv": csv(header="a, b, y")},
        refused=r"data\.target: there is no column 'y' in FOLDER/r\.csv\n.*' y'",
    ),
    Dirty("empty file", {"r.csv": b""}, refused=r"^FOLDER/r\.csv: the file is empty"),
    Dirty("blank lines alone", {"r.csv": b"\n\n\n"}, refused=r"^FOLDER/r\.csv: the file is empty"),
    Dirty("header alone", {"r.csv": b"a,b,y\n"}, refused=r"^FOLDER/r\.csv: there are no rows"),
    Dirty(
        "empty file beside others",
        {"0.csv": b"", "1.csv": csv()},
        rows=_FIRST,
        said=(r"note: empty files are left out: 1, such as .*0\.csv",),
    ),
    Dirty(
        "decimal commas",
        {"r.csv": csv({2: "1.234,5;u;no", 4: "0,25;u;no"}, "a;b;y", ";")},
        {"csv": {"delimiter": ";", "decimal": ","}},
        rows={2: {"a": 1234.5}, 4: {"a": 0.25}},
    ),
    Dirty(
        "other delimiter",
        {"r.csv": csv(header="a;b;y", sep=";")},
        refused=r"^FOLDER/r\.csv: its only column is 'a;b;y'.*\n.*delimiter: ';'",
    ),
    Dirty(
        "commas in a file of tabs",
        {"r.tsv": csv()},
        refused=r"^FOLDER/r\.tsv: its only column is 'a,b,y'.*no tabs.*\n.*delimiter: ','",
    ),
    Dirty(
        "thousands and a currency",
        {"r.csv": csv({2: '"$1,234",u,no'})},
        {"features": {"columns": {"a": "numeric"}}},
        refused=r"^FOLDER/r\.csv: row 2: a: '\$1,234' is not a number\n.*such as 1234\.5",
    ),
    Dirty(
        "six spellings of a missing number, not said",
        {
            "r.csv": csv(
                {n: f"{text},{'uv'[n % 2]},{('no', 'yes')[n % 2]}" for n, text in _NULLS.items()}
            )
        },
        kinds={"a": "categorical"},
        said=(r"column 'a'.*missing",),
    ),
    Dirty(
        "six spellings of a missing number, said",
        {
            "r.csv": csv(
                {n: f"{text},{'uv'[n % 2]},{('no', 'yes')[n % 2]}" for n, text in _NULLS.items()}
            )
        },
        {"clean": {"missing_values": list(_NULLS.values())}},
        kinds={"a": "numeric"},
        rows={n: {"a": None} for n in _NULLS},
    ),
    Dirty(
        "booleans in five spellings",
        {"r.csv": csv({n: f"{n},{text},yes" for n, text in enumerate(_BOOLEANS, 3)})},
        kinds={"b": "categorical"},
        said=(r"column 'b': 'TRUE' .* differ only in case, and are 2 categories",),
    ),
    Dirty(
        "number beyond 64 bits",
        {"r.csv": csv({2: "9223372036854775808,u,no", 4: f"{10**30},u,no"})},
        rows={2: {"a": 2**63}, 4: {"a": int(1e30)}},
    ),
    Dirty(
        "number beyond a double",
        {"r.csv": csv({2: "1e400,u,no"})},
        refused=r"^FOLDER/r\.csv: row 2: a: '1e400' is not a finite number",
    ),
    Dirty(
        "number beyond a float",
        {"r.csv": csv({2: "1e200,u,no"})},
        {"features": {"scale": "none"}},
        refused=r"^FOLDER/r\.csv: row 2: a: 1e\+200 is too large",
    ),
    Dirty(
        "infinity and NaN, dropped and missing",
        {"r.csv": csv({2: "inf,u,no", 4: "-Infinity,u,no", 6: "NaN,u,no"})},
        {"clean": {"on_error": "drop"}},
        num_rows=NUM_ROWS - 2,
        left_out={"a: is not a finite number": 2},
        said=(r"left out: a: is not a finite number: 2 rows, the first at .*row 2 \('inf'\)",),
    ),
    Dirty(
        "text among numbers",
        {"r.csv": csv({7: "seven,v,yes"})},
        {"features": {"columns": {"a": "numeric"}}},
        refused=r"^FOLDER/r\.csv: row 7: a: 'seven' is not a number\n.*missing_values",
    ),
    Dirty(
        "codes with zeros in front and a late letter",
        {
            "r.csv": csv(
                {n: f"0{n},u,{('no', 'yes')[n % 2]}" for n in range(1, 24)} | {24: "V12,u,no"}
            )
        },
        kinds={"a": "categorical"},
        rows={7: {"a": "07"}, 24: {"a": "V12"}},
    ),
    Dirty(
        "gzip that was cut off",
        {"r.csv.gz": gzip.compress(csv() * 50)[:-40]},
        refused=r"^FOLDER/r\.csv\.gz cannot be read: .*\n.*damaged or was cut off",
    ),
    Dirty(
        "another kind of file under the name",
        {"r.csv": b"PK\x03\x04" + bytes(range(256)) * 4},
        refused=r"^FOLDER/r\.csv: .*ZIP",
    ),
    Dirty(
        "page of a web server under the name",
        {"r.csv": b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n"},
        refused=r"^FOLDER/r\.csv: .*HTML",
    ),
    Dirty(
        "pointer of Git LFS under the name",
        {"r.csv": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"},
        refused=r"^FOLDER/r\.csv: .*Git LFS.*\n.*git lfs pull",
    ),
    Dirty(
        "columns in another order in the second file",
        {"0.csv": csv(), "1.csv": b"y,b,a\n" + b"no,u,77\n" * 4},
        num_rows=NUM_ROWS + 4,
        rows={1001: {"a": 77, "b": "u"}},
    ),
    Dirty(
        "column that the second file lacks",
        {"0.csv": csv(), "1.csv": b"a,y\n1,no\n"},
        refused=r"^FOLDER/1\.csv: there is no column 'b', which FOLDER/0\.csv has",
    ),
    Dirty(
        "duplicates",
        {"r.csv": csv({9: "1,v,yes", 11: "1,v,yes"})},
        {"clean": {"duplicates": "drop"}},
        num_rows=NUM_ROWS - 2,
        said=("dropping 2 rows that repeat an earlier one",),
    ),
    Dirty(
        "column without a value",
        {"r.csv": csv({n: f",u,{('no', 'yes')[n % 2]}" for n in range(1, NUM_ROWS + 1)})},
        refused=r"column 'a' has no value in any of 24 rows\n.*exclude: \[a\]",
    ),
]


@table(CASES)
def test_csv_file_is_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)
