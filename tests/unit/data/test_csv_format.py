"""Forms of CSV files: headers, delimiters, quotes, and rows that are larger than a block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prepared_here import prepare_here
from pyarrow import fs as pafs

from raydc.data import csv_format
from raydc.data.csv_format import CsvReader
from raydc.data.layout import SourceFile
from raydc.errors import DataError
from raydc.spec.data import Csv

# The first row is in no way special.
NUMBERS = "".join(f"{row / 8 - 3:.3f},{row % 7},{(-1, 1)[row % 2]}\n" for row in range(120))


def _file(folder: Path, content: str, name: str = "rows.csv") -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def _rows(path: str, missing: tuple[str, ...] = ("",), **form: Any) -> list[dict[str, Any]]:
    reader = CsvReader(pafs.LocalFileSystem(), Csv(**form), missing)
    file = SourceFile(Path(path).name, path, 1, "train")
    tables = reader.tables(file, reader.column_names(file))
    return [row for table in tables for row in table.to_pylist()]


def test_header_that_is_a_row_gets_a_note(tmp_path: Path) -> None:
    data = {"source": _file(tmp_path, NUMBERS), "target": "-1"}
    prepared, notes = prepare_here(tmp_path, data)
    assert sum(prepared.num_rows.values()) == 119
    assert [note for note in notes if "looks like a row" in note] == [
        f"note: the header of {tmp_path}/rows.csv looks like a row of values: it has '-3.000'. "
        "If the file has no header, set data.csv.header: false"
    ]
    data = {"source": _file(tmp_path, NUMBERS, "b.csv"), "target": "column_3"}
    prepared, notes = prepare_here(tmp_path, {**data, "csv": {"header": False}})
    assert sum(prepared.num_rows.values()) == 120
    assert list(prepared.features.columns) == ["column_1", "column_2"]
    assert not any("looks like a row" in note for note in notes)


def test_header_with_a_text_gets_a_note(tmp_path: Path) -> None:
    text = "a text that is much too long to be the name of a column as mails and messages may be"
    data = {"source": _file(tmp_path, f"ham,{text}\n" + "ham,x\nspam,y\n" * 60), "target": "ham"}
    _, notes = prepare_here(tmp_path, data)
    assert any("rows.csv looks like a row of values: it has 'a text" in note for note in notes)


def test_delimiter_that_is_not_there_is_named_with_the_missing_column(tmp_path: Path) -> None:
    data = {"source": _file(tmp_path, "a,y\n1,2\n"), "target": "y", "csv": {"delimiter": ";"}}
    message = r"no column 'y' in .*\n  Its only column is 'a,y'\. Is data\.csv\.delimiter right"
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, data)


def test_row_is_counted_from_the_first_line_without_a_header(tmp_path: Path) -> None:
    path = _file(tmp_path, NUMBERS + "1,2\n")
    with pytest.raises(DataError, match=r"row 121: 2 cells, but the first row has 3"):
        _rows(path, header=False)
    with pytest.raises(DataError, match=r"row 120: 2 cells, but the header has 3"):
        _rows(path)


def test_header_with_a_name_twice_may_be_no_header(tmp_path: Path) -> None:
    message = r"names '0' twice, in columns 1 and 2\n.*data\.csv\.header: false"
    with pytest.raises(DataError, match=message):
        _rows(_file(tmp_path, "0,0,1\n1,2,3\n"))


@pytest.mark.parametrize("sign", [";", "\t", "|"])
@pytest.mark.parametrize("cell", ["1", "1,5", '"1,5"'])
def test_another_delimiter_is_named_whatever_the_rows_hold(
    tmp_path: Path, sign: str, cell: str
) -> None:
    path = _file(tmp_path, f"a{sign}y\n" + f"{cell}{sign}no\n" * 5)
    with pytest.raises(
        DataError, match=r"its only column is .*\n.*data\.csv\.delimiter: "
    ) as found:
        _rows(path)
    assert repr(sign) in str(found.value)
    assert _rows(path, delimiter=sign) == [{"a": cell.strip('"'), "y": "no"}] * 5


def test_lone_quotes_join_rows_with_a_note_or_are_plain(tmp_path: Path) -> None:
    lines = [f"{row}\t{'yn'[row % 2]}\tsize {row}\n" for row in range(120)]
    lines[10], lines[14] = '10\ty\t"quoted start\n', '14\ty\tends here"\n'
    data = {"source": _file(tmp_path, "a\ty\tc\n" + "".join(lines), "rows.tsv"), "target": "y"}
    prepared, notes = prepare_here(tmp_path, data)
    assert sum(prepared.num_rows.values()) == 116
    (note,) = [note for note in notes if "line breaks" in note]
    assert note.startswith("note: column 'c' has cells with line breaks, 1 in all, the first being")
    assert note.endswith("rows were joined: data.csv.quotes: none")
    prepared, notes = prepare_here(tmp_path, {**data, "csv": {"quotes": "none"}})
    assert sum(prepared.num_rows.values()) == 120
    assert not any("line breaks" in note for note in notes)


def test_row_larger_than_a_block_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_format, "_BLOCK_BYTES", 64)
    lines = [f"{row},{'x' * (700 if row in (0, 20, 21) else 5)},u\n" for row in range(60)]
    rows = _rows(_file(tmp_path, "a,b,y\n" + "".join(lines)))
    assert [row["a"] for row in rows] == [str(row) for row in range(60)]
    assert [len(row["b"]) for row in rows][19:23] == [5, 700, 700, 5]


def test_row_larger_than_the_limit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_format, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(csv_format, "_MAX_BLOCK_BYTES", 256)
    lines = [f"{row},{'x' * (2000 if row == 20 else 5)},u\n" for row in range(60)]
    path = _file(tmp_path, "a,b,y\n" + "".join(lines))
    with pytest.raises(
        DataError, match=rf"^{path}: row 21 has more than 256 bytes\n.*quotes: none"
    ):
        _rows(path)
    # A quote that nothing closes makes one cell of all that follows.
    lines[20] = '20,"open,u\n'
    with pytest.raises(DataError, match="row 21 has more than 256 bytes"):
        _rows(_file(tmp_path, "a,b,y\n" + "".join(lines), "open.csv"))


def test_part_without_rows_is_skipped_with_a_note(tmp_path: Path) -> None:
    header = "a,b,y\n"
    for name, content in (("0", ""), ("1", header), ("2", header + NUMBERS), ("3", header)):
        _file(tmp_path, content, f"{name}.csv")
    prepared, notes = prepare_here(tmp_path, {"source": f"{tmp_path}/*.csv", "target": "y"})
    assert sum(prepared.num_rows.values()) == 120
    assert f"note: empty files are left out: 1, such as {tmp_path}/0.csv" in notes
    assert f"note: files without rows: 2, such as {tmp_path}/1.csv" in notes
    with pytest.raises(DataError, match=r"1\.csv: there are no rows in it"):
        prepare_here(tmp_path, {"source": f"{tmp_path}/1.csv", "target": "y"})


@pytest.mark.parametrize("bad", ['""', '"ab"', '"\\""', '"\\n"'])
def test_delimiter_is_one_character(bad: str) -> None:
    from raydc.errors import SpecError
    from raydc.spec import loads

    with pytest.raises(SpecError, match=r"data\.csv\.delimiter"):
        loads(f"name: x\ndata: {{source: x, csv: {{delimiter: {bad}}}}}\nmodel: {{name: linear}}")
