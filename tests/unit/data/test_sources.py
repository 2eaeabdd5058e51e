"""Files of a source, their format and their parts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from raydc.data import sources, values
from raydc.data.clean import TEST, TRAIN, VALIDATION, Cleaner
from raydc.data.layout import Layout
from raydc.errors import DataError
from raydc.spec import from_dict, loads, resolve
from raydc.spec.sections import Spec


def _spec(source: str, more: str = "") -> Spec:
    return loads(f"name: x\ndata:\n  source: {source}\n{more}\nmodel: {{name: linear}}\n")


def _locate(source: str, more: str = "") -> Layout:
    return sources.locate(_spec(source, more).data)


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


def test_locate_takes_a_path_that_exists_as_it_is_written(tmp_path: Path) -> None:
    for character in map(chr, range(32, 127)):
        if character == "/":
            continue
        folder = tmp_path / f"a{character}b"
        _touch(folder, f"part{character}.csv", f"more{character}/part.csv")
        for source, names in (
            (folder, [f"more{character}/part.csv", f"part{character}.csv"]),
            (folder / f"part{character}.csv", [f"part{character}.csv"]),
        ):
            data = {"source": str(source), "partitioning": "ignore"}
            spec = from_dict({"name": "x", "data": data, "model": {"name": "linear"}})
            layout = sources.locate(resolve(spec).data)
            assert [file.name for file in layout.files] == sorted(names), source


def test_locate_reads_a_pattern_only_if_no_path_is_named_so(tmp_path: Path) -> None:
    _touch(tmp_path, "a[1].csv", "a1.csv", "ax.csv")
    names = {
        pattern: [file.name for file in _locate(f"'{tmp_path}/{pattern}'").files]
        for pattern in ("a[1].csv", "a[x].csv", "a[[]1].csv", "a?.csv")
    }
    assert names == {
        "a[1].csv": ["a[1].csv"],
        "a[x].csv": ["ax.csv"],
        "a[[]1].csv": ["a[1].csv"],
        "a?.csv": ["a1.csv", "ax.csv"],
    }
    with pytest.raises(DataError, match=r"no file matches\n.*wildcards; write \[\*\]"):
        _locate(f"{tmp_path}/b?.csv")


def test_locate_reads_photographs_whose_name_begins_with_an_underscore(tmp_path: Path) -> None:
    names = ["a/_DSC1.jpg", "a/2.jpg", "_b/_MG_3.jpg", "_b/.4.jpg", ".c/5.jpg", "__MACOSX/6.jpg"]
    _touch(tmp_path, *names)
    layout = _locate(str(tmp_path))
    assert [file.name for file in layout.files] == ["_b/_MG_3.jpg", "a/2.jpg", "a/_DSC1.jpg"]
    assert layout.notes == ()


def test_locate_names_the_files_that_it_leaves_out(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg", "a/2.heic", "b/3.HEIC", "b/4.jpg", "README", "b/.DS_Store")
    (note,) = _locate(str(tmp_path)).notes
    assert ".heic (2), no ending (1)" in note
    assert f"such as {tmp_path}/" in note
    tables = _touch(tmp_path / "t", "a.csv", "_tmp/b.csv", "_c.csv", "_SUCCESS", "_log/0.crc")
    layout = _locate(str(tables))
    assert [file.name for file in layout.files] == ["a.csv"]
    (note,) = layout.notes
    assert "unfinished files are left out, whose name or folder begins with _: 2, such as" in note
    # What is asked for by its name is read.
    assert [file.name for file in _locate(f"{tables}/_c.csv").files] == ["_c.csv"]
    assert [file.name for file in _locate(f"{tables}/_c*").files] == ["_c.csv"]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_locate_reads_a_folder_of_validation_images(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, "train/cat/1.jpg", f"{name}/cat/2.jpg", "test/cat/3.jpg", "train/dog/0.jpg")
    layout = _locate(str(tmp_path))
    assert [file.part for file in layout.files] == ["train", "train", "validation", "test"]
    assert (layout.first_validation_id, layout.first_test_id) == (2 << 40, 3 << 40)
    cleaner = Cleaner(
        layout.first_test_id, resolve(_spec(str(tmp_path))).data, 0, {}, first_validation_id=2 << 40
    )
    rows = pa.table({values.ROW_ID: [row << 40 for row in range(4)]})
    assert cleaner.assign_splits(rows).tolist() == [TRAIN, TRAIN, VALIDATION, TEST]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/0.jpg", "extra/a/1.jpg"], "the folder extra is neither a training, validation"),
        (["train/0.jpg", "test/1.jpg"], "test/1.jpg is in no folder of a class"),
        (["val/a/0.jpg", "test/a/1.jpg"], "of test, val none is a training part"),
        (["a/b/0.jpg", "c/d/1.jpg"], "a/b/0.jpg does not fit an image folder"),
    ],
)
def test_locate_names_the_folder_that_does_not_fit(
    tmp_path: Path, names: list[str], message: str
) -> None:
    _touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        _locate(str(tmp_path))


def test_locate_notes_parts_that_are_read_as_one(tmp_path: Path) -> None:
    _touch(tmp_path, "train.csv", "test.csv", "validation-0.csv")
    (note,) = _locate(str(tmp_path)).notes
    assert "named test and train and validation are read as one set" in note
    assert _locate(f"{{train: {tmp_path}/train.csv, test: {tmp_path}/test.csv}}").notes == ()
    _touch(tmp_path / "other", "trains.csv", "testimony.csv")
    assert _locate(str(tmp_path / "other")).notes == ()


def test_locate_refuses_folders_that_name_different_columns(tmp_path: Path) -> None:
    _touch(tmp_path, "region=north/0.csv", "area=south/1.csv")
    with pytest.raises(DataError, match=r"columns area, but those of .* region\n.*ignore"):
        _locate(str(tmp_path))
    assert _locate(str(tmp_path), "  partitioning: ignore").notes == ()


def test_locate_refuses_a_link_to_nothing(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv")
    (tmp_path / "README").symlink_to("nowhere")
    (tmp_path / "b.csv").symlink_to("a.csv")
    assert [file.name for file in _locate(str(tmp_path)).files] == ["a.csv", "b.csv"]
    (tmp_path / "c.csv").symlink_to("nowhere.csv")
    for source in (tmp_path, f"{tmp_path}/*.csv"):
        with pytest.raises(DataError, match=rf"^{tmp_path}/c\.csv is a link to a file that is not"):
            _locate(str(source))
    assert len(_locate(f"{tmp_path}/[ab].csv").files) == 2


def test_locate_notes_rows_that_are_there_twice(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv", "a.csv.gz", "b.csv")
    (note,) = _locate(str(tmp_path)).notes
    assert note == "note: a.csv is there compressed and not, and the rows of both are read"


def test_locate_knows_parts_in_the_names_of_folders(tmp_path: Path) -> None:
    tables = _touch(tmp_path / "t", "split=train/0.csv", "split=test/0.csv")
    assert any("named test and train" in note for note in _locate(str(tables)).notes)
    images = _touch(tmp_path / "i", "split=train/a/0.png", "split=test/a/0.png")
    assert [file.part for file in _locate(str(images)).files] == ["train", "test"]
