"""Row ids, and errors of libraries that name a file."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyarrow import fs as pafs

from raydc.data.layout import Layout, SourceFile, first_row_id, name_errors, plain_suffix
from raydc.errors import DataError

FILES = (
    SourceFile("a.csv", "/data/a.csv", 10, "train"),
    SourceFile("b.csv", "/data/b.csv", 10, "test"),
)


def test_describe_row_counts_rows_of_the_file_from_one() -> None:
    layout = Layout("csv", pafs.LocalFileSystem(), FILES)
    assert layout.describe_row(first_row_id(1) + 16) == "/data/b.csv: row 17"
    assert layout.first_test_id == first_row_id(1)
    assert Layout("csv", pafs.LocalFileSystem(), FILES[:1]).first_test_id is None


@pytest.mark.parametrize(
    ("format_", "place"),
    [
        ("jsonl", "/data/a.csv: line 3"),
        ("idx", "/data/a.csv: image 3"),
        ("image_folder", "/data/a.csv"),
    ],
)
def test_describe_row_uses_the_unit_of_the_format(format_: str, place: str) -> None:
    assert FILES[0].describe_row(format_, 2) == place  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "suffix"), [("A.CSV.gz", ".csv"), ("x.tar.zst", ".tar"), ("README", "")]
)
def test_plain_suffix_ignores_case_and_compression(name: str, suffix: str) -> None:
    assert plain_suffix(name) == suffix


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError("no"), "/data/a does not exist on this node"),
        (pa.ArrowInvalid("bad magic\nmore"), "/data/a cannot be read: bad magic"),
        (EOFError(), "/data/a cannot be read: "),
    ],
)
def test_name_errors_names_the_file(error: Exception, message: str) -> None:
    with pytest.raises(DataError) as caught, name_errors("/data/a"):
        raise error
    assert caught.value.message == message
