"""Readers without Ray: dialects of CSV, types of Parquet, and the features fitted on them."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydc.data import fit, shard_writer, sources, values
from raydc.data.clean import Cleaner
from raydc.data.column_kinds import ColumnKinds
from raydc.data.column_scan import merge_scans, scan_block
from raydc.data.column_statistics import measure_block, merge_statistics
from raydc.data.layout import Layout
from raydc.data.readers import Reader
from raydc.errors import DataError
from raydc.features import Features
from raydc.spec import from_dict, resolve

BODY = "".join(f"{row},{'uv'[row % 2]},{('no', 'yes')[row % 2]}\n" for row in range(50)).encode()


def _read(path: Path, **data: Any) -> tuple[list[pa.Table], dict[str, str], Cleaner, Layout]:
    section = {"source": str(path), "target": "y", **data}
    spec = resolve(from_dict({"name": "x", "data": section, "model": {"name": "linear"}}))
    layout = sources.locate(spec.data)
    tables = [
        table
        for piece in Reader.for_layout(layout, spec.data).pieces(layout.files)
        for table in piece()
    ]
    kinds = ColumnKinds(spec.data, layout, merge_scans(map(scan_block, tables)), print).decide()
    return tables, kinds, Cleaner(None, spec.data, 0, kinds), layout


def _kinds(path: Path, **data: Any) -> dict[str, str]:
    return _read(path, **data)[1]


def _fitted(path: Path, **data: Any) -> tuple[Features, pa.Table, Cleaner]:
    tables, _, cleaner, layout = _read(path, **data)
    total = merge_statistics([measure_block(table, cleaner) for table in tables])
    features = fit.fit_features(total, cleaner, layout, cleaner.data.features.exclude)
    return features, pa.concat_tables(tables), cleaner


def _file(folder: Path, content: bytes, name: str = "rows.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    "content",
    [
        b"a,b,y\n" + BODY,
        b"a,b,y\n" + BODY[:-1],
        b"\xef\xbb\xbfa,b,y\n" + BODY,
        (b"a,b,y\n" + BODY).replace(b"\n", b"\r\n"),
        b'"a","b","y"\n' + BODY,
        b"a,b,y\n\n" + BODY,
    ],
    ids=["plain", "no last newline", "byte order mark", "crlf", "quoted header", "blank line"],
)
def test_csv_of_any_dialect_gives_the_same_rows(tmp_path: Path, content: bytes) -> None:
    tables, kinds, _, _ = _read(_file(tmp_path, content))
    table = pa.concat_tables(tables)
    assert kinds == {"a": "numeric", "b": "categorical"}
    assert table.column("a").to_pylist() == [str(row) for row in range(50)]
    assert values.row_ids(table).tolist() == list(range(50))


def test_tsv_has_tabs_between_its_cells(tmp_path: Path) -> None:
    assert _kinds(_file(tmp_path, (b"a,b,y\n" + BODY).replace(b",", b"\t"), "rows.tsv")) == {
        "a": "numeric",
        "b": "categorical",
    }


def test_csv_cells_in_quotes_hold_commas_and_line_breaks(tmp_path: Path) -> None:
    content = b'a,"b, c",y\n' + b'1,"x, ""y""\nz",no\n2,w,yes\n' * 20
    features, rows, cleaner = _fitted(_file(tmp_path, content))
    assert shard_writer.golden_rows(rows, cleaner)[:2] == [
        {"a": 1, "b, c": 'x, "y"\nz'},
        {"a": 2, "b, c": "w"},
    ]
    assert set(features.columns) == {"a", "b, c"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,y\n1,café,no\n".encode("latin1"), r"row 1: b: 'caf\\xe9' is not UTF-8 text"),
        ("a,café,y\n".encode("latin1"), "not UTF-8 text"),
        (b"\0\0\0\0", "the first row has NUL bytes"),
    ],
)
def test_csv_that_is_no_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/rows\.csv:? {message}"):
        _read(_file(tmp_path, content))


def test_parquet_types_become_numbers_and_categories(tmp_path: Path) -> None:
    table = pa.table(
        {
            "int": pa.array([None if row % 7 == 0 else row for row in range(60)], pa.int64()),
            "unsigned": pa.array(range(60), pa.uint64()),
            "half": pa.array(np.arange(60, dtype=np.float16)),
            "float": pa.array([float("nan") if row % 5 == 0 else row / 10 for row in range(60)]),
            "bool": pa.array([row % 2 == 0 for row in range(60)]),
            "decimal": pa.array(
                [decimal.Decimal(row) / 4 for row in range(60)], pa.decimal128(10, 2)
            ),
            "codes": pa.array(["p", "q", None] * 20).dictionary_encode(),
            "numbers": pa.array([1, 2, None] * 20).dictionary_encode(),
            "large": pa.array(["p", "q", None] * 20, pa.large_string()),
            "y": pa.array([row % 3 * 1.0 for row in range(60)]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    features, rows, cleaner = _fitted(tmp_path / "rows.parquet")
    numeric = {"int", "unsigned", "half", "float", "decimal", "numbers"}
    assert {
        name for name, column in features.columns.items() if column.kind == "numeric"
    } == numeric
    assert features.signature.classes == ("0", "1", "2")
    golden = shard_writer.golden_rows(rows, cleaner)
    # Values missing in row 5 are left out.
    assert golden[5] == {"int": 5, "unsigned": 5, "half": 5, "bool": "false", "decimal": 1.25}
    x = features.apply(shard_writer.raw_columns(rows, cleaner, shard_writer.NUM_GOLDEN_ROWS))
    np.testing.assert_array_equal(features.apply(features.from_json_rows(golden)), x)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("list", pa.array([["p"]] * 40)),
        ("struct", pa.array([{"q": 1}] * 40)),
    ],
)
def test_parquet_types_that_are_no_input_can_be_excluded(
    tmp_path: Path, name: str, cells: pa.Array
) -> None:
    table = pa.table({"a": range(40), "odd": cells, "y": ["no", "yes"] * 20})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=rf"column 'odd' holds {name}.*\n.*exclude: \[odd\]"):
        _read(tmp_path / "rows.parquet")
    for duplicates in ("keep", "drop"):
        data = {"features": {"exclude": ["odd"]}, "clean": {"duplicates": duplicates}}
        assert _kinds(tmp_path / "rows.parquet", **data) == {"a": "numeric"}


def test_json_lines_may_lack_keys_and_be_blank(tmp_path: Path) -> None:
    lines = [b'{"a": 1, "y": "no"}', b"", b'{"y": "yes", "b": true}'] * 20
    tables, kinds, _, layout = _read(_file(tmp_path, b"\n".join(lines), "rows.jsonl"))
    assert kinds == {"a": "numeric", "b": "categorical"}
    ids = values.row_ids(pa.concat_tables(tables, promote_options="default"))
    assert ids.tolist()[:4] == [0, 2, 3, 5]
    assert layout.describe_row(5).endswith("rows.jsonl: line 6")


def test_digests_are_equal_for_equal_rows_only(tmp_path: Path) -> None:
    content = b"a,b,y\nab,c,no\na,bc,no\nab,c,no\n,c,no\n-,c,no\nab,c,yes\n"
    tables, *_ = _read(_file(tmp_path, content), clean={"duplicates": "drop"})
    digests = pa.concat_tables(tables).column(values.DIGEST).to_pylist()
    assert digests[0] == digests[2]
    assert len(set(digests)) == 5


def test_parquet_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array([1]), pa.array([2]), pa.array(["no"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a", "y"]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: there are two columns 'a'"):
        _read(tmp_path / "x.parquet")


@pytest.mark.parametrize("cell", ["1,5", "$7", "1.234,5", "5 %"])
def test_number_with_signs_is_named_where_a_number_is_needed(tmp_path: Path, cell: str) -> None:
    path = _file(tmp_path, f'a,y\n1,"{cell}"\n'.encode() * 1)
    with pytest.raises(DataError, match=r"row 1: y: .* is not a number\n.*such as 1234\.5"):
        _read(path, task="regression")
