"""Files of tables that appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from raydc.data import table_file
from raydc.data.table_file import TableWriter
from raydc.errors import DataError, UsageError

TABLES = [pa.table({"a": [1, 2], "b": ["x", None]}), pa.table({"b": ["y"]})]
ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": None, "b": "y"}]


def _write(path: Path) -> None:
    with TableWriter(str(path)) as writer:
        for table in TABLES:
            writer.write(table)


def test_table_writer_appends_tables_in_each_format(tmp_path: Path) -> None:
    for suffix in ("parquet", "jsonl", "csv"):
        _write(tmp_path / f"rows.{suffix}")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == ROWS
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert pacsv.read_csv(tmp_path / "rows.csv").column("a").to_pylist() == [1, 2, None]
    assert len(list(tmp_path.iterdir())) == 3


def test_small_tables_share_a_row_group_up_to_its_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"a": pa.array(range(100))})
    monkeypatch.setattr(table_file, "_ROW_GROUP_BYTES", 3 * table.nbytes)
    with TableWriter(str(path)) as writer:
        for _ in range(7):
            writer.write(table)
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [300, 300, 100]
    assert pq.read_table(path).column("a").to_pylist() == 7 * list(range(100))


def test_table_writer_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"old")

    def write_half() -> None:
        with TableWriter(str(tmp_path / "rows.parquet")) as writer:
            writer.write(TABLES[0])
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
    assert (tmp_path / "rows.parquet").read_bytes() == b"old"


def test_table_writer_leaves_nothing_if_the_last_rows_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    path = tmp_path / "rows.parquet"
    path.write_bytes(b"old")
    monkeypatch.setattr(table_file.pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="no space left"):
        _write(path)
    assert [one.name for one in tmp_path.iterdir()] == ["rows.parquet"]
    assert path.read_bytes() == b"old"


def test_table_writer_refuses_a_column_that_the_first_table_lacks(tmp_path: Path) -> None:
    with TableWriter(str(tmp_path / "rows.csv")) as writer:
        writer.write(TABLES[0])
        with pytest.raises(DataError, match="column 'c' is missing in the first rows"):
            writer.write(pa.table({"c": [1]}))


def test_table_writer_refuses_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv, \.parquet, \.jsonl"):
        TableWriter(str(tmp_path / "rows.xlsx"))


def test_table_writer_names_a_column_that_changes_its_type(tmp_path: Path) -> None:
    message = "column 'a' holds int64 in the first rows, and string that cannot be written as such"

    def write_both() -> None:
        with TableWriter(str(tmp_path / "x.csv")) as writer:
            writer.write(pa.table({"a": [1]}))
            writer.write(pa.table({"a": ["unknown"]}))

    with pytest.raises(DataError, match=message):
        write_both()
    assert list(tmp_path.iterdir()) == []
