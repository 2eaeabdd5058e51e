"""Paths of any characters, columns with names of raydc's own, and errors that nobody foresaw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from prepared_here import prepare_here

from raydc.data import ray_tasks, shards, values
from raydc.data.layout import name_errors
from raydc.data.table_file import TableWriter
from raydc.errors import DataError

PRINTABLE = "".join(chr(code) for code in range(32, 127) if chr(code) != "/")


@pytest.mark.parametrize("name", [PRINTABLE, "run [v2]", "donn\u00e9es #1 %20?", "a*b", "~"])
def test_data_set_is_prepared_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.csv").write_text("a,y\n" + "1,no\n2,yes\n" * 60)
    for source in (folder / f"{name}.csv", folder):
        data = {"source": str(source), "target": "y", "format": "csv", "partitioning": "ignore"}
        prepared, _ = prepare_here(folder, data)
        assert prepared.folder.local_path.parent == folder / "storage" / "data"
        assert len(shards.open_rows(prepared.folder, "train")) == prepared.num_rows["train"]
        if source != folder:
            (folder / "storage").rename(tmp_path / "first")
    # Nothing lies beside it.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "first"])


def test_predictions_are_written_to_a_path_of_any_characters(tmp_path: Path) -> None:
    paths = set()
    for character in [*PRINTABLE, "\u00e9"]:
        path = tmp_path / f"a{character}b" / f"c{character}d.jsonl"
        with TableWriter(str(path)) as writer:
            writer.write(pa.table({"a": [1]}))
        assert json.loads(path.read_text()) == {"a": 1}
        paths.add(path)
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == paths


def _csv(folder: Path, name: str) -> str:
    (folder / "0.csv").write_text("a,y\n1,no\n")
    (folder / "1.csv").write_text(f"a,{name},y\n1,2,no\n")
    return str(folder / "1.csv")


def _json_lines(folder: Path, name: str) -> str:
    (folder / "0.jsonl").write_text('{"a": 1, "y": "no"}\n' * 20)
    (folder / "1.jsonl").write_text('{"a": 1}\n' + json.dumps({"a": 1, name: 2}))
    return str(folder / "1.jsonl")


def _parquet(folder: Path, name: str) -> str:
    pq.write_table(pa.table({"a": [1], name: [2]}), folder / "1.parquet")
    return str(folder / "1.parquet")


def _partitions(folder: Path, name: str) -> str:
    (folder / f"{name}=1").mkdir()
    (folder / f"{name}=1" / "0.csv").write_text("a,y\n1,no\n")
    return str(folder / f"{name}=1" / "0.csv")


@pytest.mark.parametrize("name", [values.ROW_ID, values.DIGEST])
@pytest.mark.parametrize("write", [_csv, _json_lines, _parquet, _partitions])
def test_column_with_a_name_of_raydc_is_refused_at_the_door(
    tmp_path: Path, write: Callable[[Path, str], str], name: str
) -> None:
    (tmp_path / "rows").mkdir()
    path = write(tmp_path / "rows", name)
    with pytest.raises(DataError, match=rf"^{path}: the column '{name}' has a name of raydc's own"):
        prepare_here(tmp_path, {"source": str(tmp_path / "rows"), "target": "y"})


def test_error_that_a_library_invents_names_the_file() -> None:
    message = r"^rows\.x cannot be read: KeyError: 'page' \(test_"
    with pytest.raises(DataError, match=message), name_errors("rows.x"):
        raise KeyError("page")
    with pytest.raises(DataError, match=r"^own words$"), name_errors("rows.x"):
        raise DataError("own words")


def _result_of(call: Callable[[], Any]) -> dict[str, Any]:
    (table,) = ray_tasks._as_read_call(3, call, "ScanColumns")()
    (row,) = table.to_pylist()
    return dict(row)


def test_error_in_a_task_becomes_one_line() -> None:
    def fault() -> None:
        raise ZeroDivisionError("first\nsecond")

    row = _result_of(fault)
    assert row["index"] == 3
    assert row["error"].startswith("ScanColumns failed: ZeroDivisionError: first (test_strange_")
    assert "please report it" in row["hint"]


def test_lost_block_is_no_fault_of_the_rows() -> None:
    def lost() -> None:
        raise ray.exceptions.ObjectLostError("00", "", "")

    with pytest.raises(ray.exceptions.ObjectLostError):
        _result_of(lost)


def test_error_of_a_reading_task_becomes_one_line() -> None:
    cause = ZeroDivisionError("first")
    fault = ray.exceptions.RayTaskError("read", "ZeroDivisionError: first", cause)
    message = "a task of Ray Data failed: ZeroDivisionError: first"
    with pytest.raises(DataError, match=message), ray_tasks.quiet_ray_data():
        raise fault
    own = ray.exceptions.RayTaskError("read", "...", DataError("own words"))
    with pytest.raises(DataError, match=r"^own words$"), ray_tasks.quiet_ray_data():
        raise own
