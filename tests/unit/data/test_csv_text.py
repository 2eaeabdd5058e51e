"""Encodings, decimal commas, comments and lines in front of the header of CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs as pafs

from raydc.data.csv_format import CsvReader
from raydc.data.layout import SourceFile
from raydc.errors import DataError, SpecError
from raydc.spec import from_dict
from raydc.spec.data import Csv

TEXT = 'name,a\nMünchen,1\n"Zürich, ""Kreis 4""\n# 2",2\n€uro,3\n' + "Köln,4\n" * 200
NAMES = ["München", 'Zürich, "Kreis 4"\n# 2', "€uro", *["Köln"] * 200]


def _read(folder: Path, content: bytes, **form: Any) -> pa.Table:
    (folder / "rows.csv").write_bytes(content)
    reader = CsvReader(pafs.LocalFileSystem(), Csv(**form), ("",))
    file = SourceFile("rows.csv", str(folder / "rows.csv"), len(content), "train")
    names = reader.column_names(file)
    return pa.concat_tables(reader.tables(file, names))


@pytest.mark.parametrize(
    ("encoding", "form"),
    [
        ("utf-8", {}),
        ("utf-8-sig", {}),
        ("utf-8-sig", {"encoding": "utf-8"}),
        ("utf-16", {}),
        ("utf-16", {"encoding": "utf-16"}),
        ("cp1252", {"encoding": "cp1252"}),
        ("utf-8", {"comment": "#"}),
    ],
)
def test_text_of_any_encoding_is_the_same(
    tmp_path: Path, encoding: str, form: dict[str, Any]
) -> None:
    table = _read(tmp_path, TEXT.encode(encoding), **form)
    assert table.column("name").to_pylist() == NAMES
    assert table.column_names == ["name", "a"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_ends_of_csv_end_a_line(tmp_path: Path, mark: str, end: str) -> None:
    lines = ["skipped", "name,a", f"one{mark}# no comment,1", "# a comment", f"{mark}#two,2", ""]
    table = _read(tmp_path, end.join(lines).encode(), comment="#", skip_rows=1)
    assert table.column("name").to_pylist() == [f"one{mark}# no comment", f"{mark}#two"]


def test_latin_1_is_read_as_said(tmp_path: Path) -> None:
    table = _read(tmp_path, "ort,a\nMünchen,1\n".encode("latin-1"), encoding="latin-1")
    assert table.column("ort").to_pylist() == ["München"]


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        (
            "ort,a\nMünchen,1\n",
            {},
            r"row 1: ort: 'M\\xfcnchen' is not UTF-8.*\n.*If it should read 'München', .*cp1252",
        ),
        ("Städte,a\nx,1\n", {}, r"the first row has other bytes\n.*encoding: cp1252"),
    ],
)
def test_text_of_another_encoding_is_named_with_what_to_set(
    tmp_path: Path, content: str, form: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _read(tmp_path, content.encode("cp1252"), **form)


def test_bytes_that_the_encoding_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1: a: 'x\\x81'"):
        _read(tmp_path, b"a,b\nx\x81,1\n", encoding="cp1252")


def test_decimal_commas_become_points_and_other_cells_stay(tmp_path: Path) -> None:
    cells = ["1,5", "-0,25", "1.234,5", "1.234", "1e-3", "7", "1,5 kg", "12.34", "01.02.2024", ",5"]
    content = "a;b\n" + "".join(f"{cell};x\n" for cell in cells)
    table = _read(tmp_path, content.encode(), delimiter=";", decimal=",")
    assert table.column("a").to_pylist() == [
        "1.5", "-0.25", "1234.5", "1234", "1e-3", "7", "1,5 kg", "12.34", "01.02.2024", ".5",
    ]  # fmt: skip


def test_comments_and_lines_in_front_of_the_header_are_left_out(tmp_path: Path) -> None:
    content = b"a report\nof 2024\n# units\na,b\n1,x\n# 2,y\n3,#z\n"
    table = _read(tmp_path, content, skip_rows=2, comment="#")
    assert table.to_pydict() == {"a": ["1", "3"], "b": ["x", "#z"]}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"decimal": ","}, "needs a delimiter that is not a comma"),
        ({"decimal": ",", "delimiter": ","}, "must be different characters"),
        ({"encoding": "utf-7"}, "data.csv.encoding"),
        ({"skip_rows": -1}, "data.csv.skip_rows"),
    ],
)
def test_form_that_cannot_be_is_refused(form: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_dict({"name": "x", "data": {"source": "x", "csv": form}, "model": {"name": "linear"}})
