"""Notes about columns that are not what they seem."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.data.column_notes import to_exclude
from raydc.data.prepared import Prepared
from raydc.errors import DataError
from raydc.spec import from_dict, loads

NUM_ROWS = 400
LABELS = ["no", "yes"] * (NUM_ROWS // 2)
START = datetime.date(2020, 1, 1)
DAYS = [START + datetime.timedelta(days=row) for row in range(NUM_ROWS)]
WORDS = ["very", "good", "bad", "film", "music", "plot", "dull", "bright"]
TEXTS = [
    " ".join(WORDS[row // 8**place % 8] for place in range(6)) + f" {row}"
    for row in range(NUM_ROWS)
]


def _notes(folder: Path, **columns: Any) -> tuple[Prepared, str]:
    table = pa.table({**columns, "y": LABELS})
    # Parquet of text is read as CSV is, and needs no quoting here.
    pq.write_table(table, folder / "rows.parquet")
    prepared, lines = prepare_here(folder, {"source": str(folder / "rows.parquet"), "target": "y"})
    return prepared, "\n".join(line for line in lines if line.startswith("note"))


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        ([f"{day:%Y-%m-%d}" for day in DAYS], "dates or times ('2020-01-01')"),
        ([f"{day:%d.%m.%Y}" for day in DAYS], "dates or times ('01.01.2020')"),
        ([f"{day:%m/%d/%y} 12:30" for day in DAYS], "dates or times"),
        ([f"{day:%d %b %Y}" for day in DAYS], "dates or times"),
        ([f"{day:%Y-%m-%d}T00:00:00Z" for day in DAYS], "dates or times"),
        ([f"{row // 10},{row % 10}" for row in range(NUM_ROWS)], "numbers with commas"),
        ([f"1,{row:03d},000.50" for row in range(NUM_ROWS)], "numbers with commas"),
        ([f"${row}.50" for row in range(NUM_ROWS)], "numbers with commas, separators or signs"),
        ([f"{row} %" for row in range(NUM_ROWS)], "numbers with commas, separators or signs"),
        ([f"1.{row:03d},5 EUR" for row in range(NUM_ROWS)], "numbers with commas"),
        (TEXTS, "texts ("),
        # Texts that look alike are not worth a note of their own.
        ([text.replace(" ", " " * (1 + row % 2)) for row, text in enumerate(TEXTS)], "texts ("),
        ([TEXTS[row // 2] + " " * (row % 2) for row in range(NUM_ROWS)], "texts ("),
        ([f"code-{row}" for row in range(NUM_ROWS)], "if it is an identifier"),
    ],
)
def test_column_is_named_by_the_kind_that_is_seen(
    tmp_path: Path, cells: list[str], note: str
) -> None:
    # A few cells without a value change nothing.
    _, notes = _notes(tmp_path, a=range(NUM_ROWS, 0, -1), c=[None, *cells[1:-1], None])
    assert notes.startswith("note: column 'c' ")
    assert note.rstrip(")").split(" ('")[0] in notes
    assert notes.count("note") == 1


@pytest.mark.parametrize(
    "cells",
    [
        ["red", "green", "blue", "green"] * (NUM_ROWS // 4),
        ["1-2", "3-4", "5+", "1-2"] * (NUM_ROWS // 4),
        [f"{row % 90} years" for row in range(NUM_ROWS)],
        [f"A{row % 7}.{row % 5}" for row in range(NUM_ROWS)],
    ],
)
def test_categories_get_no_note(tmp_path: Path, cells: list[str]) -> None:
    assert _notes(tmp_path, a=range(NUM_ROWS, 0, -1), c=cells)[1] == ""


def test_words_for_a_missing_value_get_a_note_and_become_missing(tmp_path: Path) -> None:
    lines = [f"{row % 5}.5,{('NA', 'x', 'y', '?')[row % 4]},{LABELS[row]}" for row in range(100)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,c,y", *lines, ""]))
    data = {"source": str(tmp_path / "rows.csv"), "target": "y"}
    _, lines = prepare_here(tmp_path, data)
    (note,) = [line for line in lines if line.startswith("note")]
    assert note.startswith("note: column 'c': '?' (")
    assert note.endswith("data.clean.missing_values: ['', '?', 'NA']")
    clean = {"missing_values": ["", "?", "NA"]}
    prepared, lines = prepare_here(tmp_path, {**data, "clean": clean})
    assert not [line for line in lines if line.startswith("note")]
    column: Any = prepared.features.columns["c"]
    assert (set(column.categories), column.has_missing) == ({"x", "y"}, True)


@pytest.mark.parametrize(
    ("name", "numbers", "note"),
    [
        ("n", range(NUM_ROWS), "is greater in each row than in the one before"),
        ("n", range(5, 5 + 3 * NUM_ROWS, 3), "is greater in each row than in the one before"),
        ("Unnamed: 0", range(NUM_ROWS, 0, -1), r"exclude: ['Unnamed: 0']"),
        ("", range(NUM_ROWS, 0, -1), r"exclude: ['']"),
        *(
            (
                name,
                [row * 7 % 50 for row in range(NUM_ROWS)],
                "is named like an identifier or an index, but",
            )
            for name in ("id", "ID", "user_id", "PassengerId", "movieID", "row index", "uuid")
        ),
    ],
)
def test_numeric_identifier_gets_a_note(tmp_path: Path, name: str, numbers: Any, note: str) -> None:
    _, notes = _notes(tmp_path, **{name: list(numbers)}, b=[0.5] * NUM_ROWS)
    assert notes.startswith(f"note: column {name!r} ")
    assert note in notes


@pytest.mark.parametrize("name", ["bid", "paid", "grid", "width", "idle", "age", "Idea", "candid"])
def test_number_gets_no_note_for_its_name(tmp_path: Path, name: str) -> None:
    assert _notes(tmp_path, **{name: [row * 7 % 50 for row in range(NUM_ROWS)]})[1] == ""


def test_index_of_pandas_is_left_out_with_a_note(tmp_path: Path) -> None:
    columns = {
        "a": [row % 9 for row in range(NUM_ROWS)],
        "__index_level_0__": list(range(NUM_ROWS)),
    }
    prepared, notes = _notes(tmp_path, **columns)
    assert list(prepared.features.columns) == ["a"]
    assert notes.startswith("note: __index_level_0__ is left out, the index of a pandas table")
    # A client that sends the whole row is answered.
    assert prepared.features.from_json_rows([{"a": 1, "__index_level_0__": 7}]) == {"a": [1]}
    data = {"source": str(tmp_path / "rows.parquet"), "target": "y"}
    kinds = {"columns": {"__index_level_0__": "numeric"}}
    prepared, _ = prepare_here(tmp_path, {**data, "features": kinds})
    assert list(prepared.features.columns) == ["a", "__index_level_0__"]


def test_all_columns_that_cannot_be_inputs_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as found:
        _notes(
            tmp_path,
            **{"a": range(NUM_ROWS), "no: 1": [["p"]] * NUM_ROWS},
            empty=pa.nulls(NUM_ROWS, pa.float64()),
        )
    assert found.value.message == (
        "column 'no: 1' holds list<element: string>, which cannot be an input; column 'empty' has "
        "no value in any of 400 rows"
    )
    assert found.value.hint == "Leave them out: data.features.exclude: ['no: 1', empty]"


def test_field_that_leaves_columns_out_is_yaml() -> None:
    names = ["a", "no", "Unnamed: 0", "", "it's", "#", "a b", "\u00e9t\u00e9", "1", "x: {", "Null"]
    section = {"source": "x", "features": {"exclude": ["before"]}}
    spec = from_dict({"name": "x", "data": section, "model": {"name": "linear"}})
    field = to_exclude(names, spec.data).removeprefix("data.features.")
    text = f"name: x\ndata: {{source: x, features: {{{field}}}}}\nmodel: {{name: linear}}\n"
    assert loads(text).data.features.exclude == ["before", *names]
