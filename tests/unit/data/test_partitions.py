"""Columns in the names of folders, in every format of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.errors import DataError

FOLDERS = ("region=north/year=2020", "region=s%C3%BCd/year=2021", "region=/year=2022")


def _write(folder: Path, suffix: str) -> dict[str, Any]:
    for name in FOLDERS:
        path = folder / "rows" / name / f"part.{suffix}"
        path.parent.mkdir(parents=True)
        rows = [{"a": row, "y": ("no", "yes")[row % 2]} for row in range(40)]
        if suffix == "csv":
            lines = [f"{row['a']},{row['y']}" for row in rows]
            path.write_text("\n".join(["a,y", *lines, ""]))
        elif suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
    return {"source": str(folder / "rows"), "target": "y"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_of_folders_are_inputs_or_left_out_as_asked(tmp_path: Path, suffix: str) -> None:
    data = _write(tmp_path, suffix)
    prepared, notes = prepare_here(tmp_path, data)
    assert {name: column.kind for name, column in prepared.features.columns.items()} == {
        "a": "numeric",
        "region": "categorical",
        "year": "numeric",
    }
    region: Any = prepared.features.columns["region"]
    assert (set(region.categories), region.has_missing) == ({"north", "s\u00fcd"}, True)
    assert any("folders give the columns region, year" in note for note in notes)
    prepared, _ = prepare_here(tmp_path, {**data, "partitioning": "ignore"})
    assert list(prepared.features.columns) == ["a"]
    # The target may be one of them.
    prepared, _ = prepare_here(tmp_path, {**data, "target": "year"})
    assert prepared.features.signature.classes == ("2020", "2021", "2022")


def test_column_of_folder_and_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a=1").mkdir()
    (tmp_path / "a=1" / "rows.csv").write_text("a,y\n" + "2,no\n3,yes\n" * 40)
    data = {"source": str(tmp_path), "target": "y"}
    with pytest.raises(DataError, match=r"column 'a' is in the file and in the names of folders"):
        prepare_here(tmp_path / "s", data)
