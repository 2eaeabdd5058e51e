"""Files of a source, their format and their parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydc.data import sources
from raydc.data.layout import Layout
from raydc.errors import DataError
from raydc.spec import loads


def _locate(source: str, more: str = "") -> Layout:
    spec = loads(f"name: x\ndata:\n  source: {source}\n{more}\nmodel: {{name: linear}}\n")
    return sources.locate(spec.data)


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def test_locate_sorts_files_by_name(tmp_path: Path) -> None:
    _touch(tmp_path, "b.csv", "a.csv.gz", "sub/c.tsv", "README.md", ".hidden.csv", "_SUCCESS")
    layout = _locate(str(tmp_path))
    assert layout.format == "csv"
    assert [file.name for file in layout.files] == ["a.csv.gz", "b.csv", "sub/c.tsv"]
    assert layout.describe_row((2 << 40) + 16) == f"{tmp_path}/sub/c.tsv: row 17"


def test_locate_keeps_files_that_match_a_glob(tmp_path: Path) -> None:
    _touch(tmp_path, "a1.parquet", "a2.parquet", "b1.parquet")
    assert [file.name for file in _locate(f"{tmp_path}/a*.parquet").files] == [
        "a1.parquet",
        "a2.parquet",
    ]
    with pytest.raises(DataError, match="no file matches"):
        _locate(f"{tmp_path}/c*.parquet")


def test_locate_puts_test_files_after_training_files(tmp_path: Path) -> None:
    _touch(tmp_path, "test/cat/0.jpg", "train/cat/1.jpg", "train/dog/0.JPG", "train/dog/notes.txt")
    layout = _locate(str(tmp_path))
    assert [(file.part, file.label) for file in layout.files] == [
        ("train", "cat"),
        ("train", "dog"),
        ("test", "cat"),
    ]
    assert layout.first_test_id == 2 << 40


def test_locate_pairs_idx_images_with_their_labels(tmp_path: Path) -> None:
    names = [
        f"{part}-{what}-ubyte.gz"
        for part in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    ]
    _touch(tmp_path, *names, "LICENSE", "train-images-idx3-ubyte")
    layout = _locate(str(tmp_path))
    pairs = [(file.part, file.name, file.labels.name) for file in layout.files if file.labels]
    # Of a file and its gzipped copy the plain one is read.
    assert pairs == [
        ("train", "train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"),
        ("test", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    ]
    both = f"{{train: {tmp_path}, test: {tmp_path}}}"
    assert [(file.part, file.name) for file in _locate(both).files] == [pair[:2] for pair in pairs]


def test_locate_takes_idx_files_of_any_name(tmp_path: Path) -> None:
    _touch(tmp_path, "pixels", "answers")
    (file,) = _locate(f"{{images: {tmp_path}/pixels, labels: {tmp_path}/answers}}").files
    assert file.labels is not None
    assert (file.name, file.labels.name) == ("pixels", "answers")


def test_locate_refuses_parts_of_two_formats(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv", "b.parquet")
    with pytest.raises(DataError, match="train and test have different formats: csv, parquet"):
        _locate(f"{{train: {tmp_path}/a.csv, test: {tmp_path}/b.parquet}}")


def test_locate_refuses_idx_files_of_an_unclear_part(tmp_path: Path) -> None:
    for prefix in ("", "train-"):
        _touch(tmp_path, f"{prefix}images-idx3-ubyte", f"{prefix}labels-idx1-ubyte")
    with pytest.raises(DataError, match="not clear which IDX files are the test part"):
        _locate(f"{{train: {tmp_path}, test: {tmp_path}}}")
