"""Columns at the edge of what a reader knows: odd names, bytes, ranges, days and shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.errors import DataError
from raydc.features import nested

NUM_ROWS = 60


def _data(folder: Path, header: str, cells: list[Any], **data: Any) -> dict[str, Any]:
    lines = [f"{cell};{row};{row % 7}" for row, cell in enumerate(cells)]
    (folder / "rows.csv").write_text("\n".join([header, *lines]))
    csv = {"delimiter": ";"}
    source = str(folder / "rows.csv")
    return {"source": source, "target": "y", "task": "regression", "csv": csv, **data}


def test_column_of_csv_may_be_called_like_the_mark_of_parquet(tmp_path: Path) -> None:
    prepared, _ = prepare_here(tmp_path, _data(tmp_path, "PAR1;PAR2;y", [1, 2, 3] * 20))
    assert list(prepared.features.columns) == ["PAR1", "PAR2"]


def test_parquet_that_is_called_csv_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "y": [0, 1]}), tmp_path / "rows.csv")
    with pytest.raises(DataError, match="it is a Parquet file"):
        prepare_here(tmp_path, {"source": str(tmp_path / "rows.csv"), "target": "y"})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_bytes_that_are_no_text_are_named_or_left_out(tmp_path: Path, kind: pa.DataType) -> None:
    cells = [b"ab\xff" if row == 7 else b"c" for row in range(NUM_ROWS)]
    texts = pa.array(cells, pa.large_binary() if kind == pa.large_string() else pa.binary())
    table = pa.table({"a": texts.view(kind), "y": [row % 7 for row in range(NUM_ROWS)]})
    pq.write_table(table, tmp_path / "rows.parquet")
    data = {"source": str(tmp_path / "rows.parquet"), "target": "y", "task": "regression"}
    with pytest.raises(DataError, match=r"row 8: a: 'ab\\xff' is not UTF-8 text"):
        prepare_here(tmp_path, data)
    prepared, _ = prepare_here(tmp_path, {**data, "clean": {"on_error": "drop"}})
    assert sum(prepared.num_rows.values()) == NUM_ROWS - 1


_FAR_APART = [(-1) ** row * 1.7e308 for row in range(NUM_ROWS)]


@pytest.mark.parametrize("scale", ["robust", "min_max"])
def test_numbers_that_are_too_far_apart_are_named(tmp_path: Path, scale: str) -> None:
    data = _data(tmp_path, "a;b;y", _FAR_APART, features={"scale": scale})
    with pytest.raises(DataError, match="column 'a': its numbers are further apart"):
        prepare_here(tmp_path, data)


def test_limits_beyond_all_floats_limit_nothing(tmp_path: Path) -> None:
    clean = {"outliers": "clip", "outlier_deviations": 3}
    prepared, _ = prepare_here(tmp_path, _data(tmp_path, "a;b;y", _FAR_APART, clean=clean))
    column: Any = prepared.features.columns["a"]
    assert column.low < -1.7e308
    assert column.high > 1.7e308


@pytest.mark.parametrize(
    ("first", "is_noted"), [(20240101, True), (20240150, False), (1_704_067_200, False)]
)
def test_days_without_hyphens_get_a_note(tmp_path: Path, first: int, is_noted: bool) -> None:
    features = {"columns": {"when": "date"}}
    cells = [first + row % 28 for row in range(NUM_ROWS)]
    _, lines = prepare_here(tmp_path, _data(tmp_path, "when;b;y", cells, features=features))
    found = [line for line in lines if "write them as 2024-02-29" in line]
    assert len(found) == is_noted
    if is_noted:
        assert "from 20240101 to 20240128 are taken as seconds" in found[0]


@pytest.mark.parametrize("place", [0, 30, NUM_ROWS - 1])
def test_one_odd_list_does_not_decide_for_the_others(tmp_path: Path, place: int) -> None:
    cells = [f"[1, {row}]" for row in range(NUM_ROWS)]
    cells[place] = "[[1, 2]]"
    data = _data(tmp_path, "v;b;y", cells, features={"columns": {"v": "list"}})
    with pytest.raises(DataError, match=rf"row {place + 1}: v: .*not like those of most rows"):
        prepare_here(tmp_path, data)
    prepared, _ = prepare_here(tmp_path, {**data, "clean": {"on_error": "drop"}})
    assert sum(prepared.num_rows.values()) == NUM_ROWS - 1


@pytest.mark.parametrize("place", [0, 30, NUM_ROWS - 1])
@pytest.mark.parametrize("odd", ["NA", 5, [[1.0, 2.0]]])
def test_cell_of_json_lines_unlike_the_others_is_left_out(
    tmp_path: Path, place: int, odd: Any
) -> None:
    rows = [{"v": [1.0, row] if row % 5 else [], "b": row, "y": row % 7} for row in range(NUM_ROWS)]
    rows[place]["v"] = odd
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"source": str(tmp_path / "rows.jsonl"), "target": "y", "task": "regression"}
    with pytest.raises(DataError, match="A column holds values of one kind"):
        prepare_here(tmp_path, data)
    prepared, lines = prepare_here(tmp_path, {**data, "clean": {"on_error": "drop"}})
    assert sum(prepared.num_rows.values()) == NUM_ROWS - 1
    assert any(f"line {place + 1}" in line and "but most rows have" in line for line in lines)


def test_true_and_false_in_lists_are_refused_where_they_are_no_numbers() -> None:
    assert nested.to_array([[1, True]]).tolist() == [[1, 1]]
    for value in ([True], [1.5, False], [[1, 2], [3, True]]):
        with pytest.raises(ValueError, match="it holds true or false"):
            nested.to_array(value, takes_booleans=False)
