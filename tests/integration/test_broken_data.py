"""Broken data: one message with the place, a DataError, and nothing left in the storage."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import preparing
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from preparing import idx, people, write_csv, write_jsonl

from raydc.errors import DataError

pytestmark = pytest.mark.usefixtures("ray_engine")
Case = tuple[dict[str, Any], str]
TARGET = {"target": "y"}


def _text(folder: Path, text: str, name: str = "rows.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def _table(num_rows: int = 40, **replaced: Any) -> str:
    """CSV of columns a, b and y; `replaced` gives row 17 other cells."""
    cells = [{"a": str(row), "b": "u", "y": "no" if row % 2 else "yes"} for row in range(num_rows)]
    cells[16].update(replaced)
    return "a,b,y\n" + "".join(f"{row['a']},{row['b']},{row['y']}\n" for row in cells)


def _idx_pair(folder: Path, images: bytes, labels: bytes) -> dict[str, Any]:
    (folder / "images-idx3-ubyte").write_bytes(images)
    (folder / "labels-idx1-ubyte").write_bytes(labels)
    return {"source": str(folder)}


IMAGES = np.zeros((10, 4, 4), dtype=np.uint8)
LABELS = (np.arange(10) % 2).astype(np.uint8)


def _photos(folder: Path, sizes: tuple[tuple[int, int], ...] = ((8, 8),)) -> Path:
    for index in range(20):
        path = folder / "photos" / ("cat", "dog")[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(sizes[index % len(sizes)], index, dtype=np.uint8)).save(path)
    return folder / "photos"


# Sources ------------------------------------------------------------------------------------------


def no_such_source(folder: Path) -> Case:
    return {"source": str(folder / "nowhere.csv")}, rf"source {folder}/nowhere\.csv does not exist"


def a_folder_without_files(folder: Path) -> Case:
    (folder / "empty").mkdir()
    return {"source": str(folder / "empty")}, "the folder holds no files"


def a_format_that_cannot_be_seen(folder: Path) -> Case:
    return {
        "source": _text(folder, "x", "rows.xlsx")
    }, r"the format cannot be determined from rows\.xlsx"


def an_archive(folder: Path) -> Case:
    return {
        "source": _text(folder, "x", "photos.zip")
    }, r"photos\.zip\n  It is an archive: unpack it first"


def two_formats(folder: Path) -> Case:
    _text(folder, _table())
    _text(folder, "{}", "rows.jsonl")
    return {"source": str(folder)}, "holds several formats: csv, jsonl"


def an_empty_file(folder: Path) -> Case:
    return {"source": _text(folder, ""), **TARGET}, r"rows\.csv: the file is empty"


def a_header_only(folder: Path) -> Case:
    return {"source": _text(folder, "a,b,y\n"), **TARGET}, r"rows\.csv: there are no rows in it"


def a_truncated_gzip(folder: Path) -> Case:
    whole = gzip.compress(_table(20_000).encode())
    (folder / "rows.csv.gz").write_bytes(whole[: len(whole) // 2])
    return {
        "source": str(folder / "rows.csv.gz"),
        **TARGET,
    }, r"rows\.csv\.gz cannot be read: Truncated"


def no_gzip_at_all(folder: Path) -> Case:
    return {
        "source": _text(folder, _table(), "rows.csv.gz"),
        **TARGET,
    }, r"rows\.csv\.gz cannot be read: zlib"


def a_truncated_parquet_file(folder: Path) -> Case:
    pq.write_table(pa.Table.from_pylist(people(50)), folder / "rows.parquet")
    whole = (folder / "rows.parquet").read_bytes()
    (folder / "rows.parquet").write_bytes(whole[: len(whole) // 2])
    return {"source": str(folder / "rows.parquet")}, r"rows\.parquet cannot be read: .*Parquet"


def other_columns_in_the_test_part(folder: Path) -> Case:
    parts = {"train": _text(folder, _table()), "test": _text(folder, "a,y\n1,no\n", "test.csv")}
    return {"source": parts, **TARGET}, r"test\.csv: there is no column 'b', which .*rows\.csv has"


# Rows ---------------------------------------------------------------------------------------------


def no_target_column(folder: Path) -> Case:
    data = {"source": _text(folder, _table().replace("y\n", "label\n", 1)), "target": "labels"}
    return (
        data,
        r"data\.target: there is no column 'labels' in .*rows\.csv\n  Did you mean label\?",
    )


def semicolons_instead_of_commas(folder: Path) -> Case:
    return {
        "source": _text(folder, _table().replace(",", ";")),
        **TARGET,
    }, r"its only column is 'a;b;y'.*\n.*data\.csv\.delimiter: ';'"


def an_unknown_column_to_exclude(folder: Path) -> Case:
    data = {"source": _text(folder, _table()), **TARGET, "features": {"exclude": ["id"]}}
    return data, r"data\.features\.exclude: there is no column 'id'"


def a_word_in_row_17_of_numbers(folder: Path) -> Case:
    columns = {"columns": {"a": "numeric"}}
    data = {"source": _text(folder, _table(a="seven")), **TARGET, "features": columns}
    return data, r"rows\.csv: row 17: a: 'seven' is not a number"


def infinity_in_row_17(folder: Path) -> Case:
    return {
        "source": _text(folder, _table(a="inf")),
        **TARGET,
    }, r"rows\.csv: row 17: a: 'inf' is not a finite number"


def a_ragged_row(folder: Path) -> Case:
    return {
        "source": _text(folder, _table(b="u,v")),
        **TARGET,
    }, r"rows\.csv: row 17: 4 cells, but the header has 3"


def a_header_with_a_name_twice(folder: Path) -> Case:
    return {
        "source": _text(folder, "a,a,y\n1,2,no\n"),
        **TARGET,
    }, r"rows\.csv: the header names 'a' twice"


def a_broken_line_of_json(folder: Path) -> Case:
    path = write_jsonl(folder / "rows.jsonl", people(30))
    lines = path.read_text().splitlines()
    lines[11] = lines[11][:-3]
    path.write_text("\n".join(lines))
    return {"source": str(path)}, r"rows\.jsonl: line 12: not JSON"


def a_line_of_json_that_is_a_list(folder: Path) -> Case:
    return {
        "source": _text(folder, '{"a": 1}\n[2]\n', "rows.jsonl")
    }, r"rows\.jsonl: line 2: \[2\] is not an object"


def a_list_of_texts_as_input(folder: Path) -> Case:
    table = pa.table({"when": pa.array([["a"], ["b"]] * 20), "y": ["no", "yes"] * 20})
    pq.write_table(table, folder / "rows.parquet")
    hint = r"data\.features\.exclude: \[when\]"
    return {
        "source": str(folder / "rows.parquet"),
        **TARGET,
    }, rf"column 'when' holds list<.*\n.*{hint}"


def a_missing_value_where_none_is_allowed(folder: Path) -> Case:
    data = {"source": _text(folder, _table(a="")), **TARGET, "clean": {"missing": "error"}}
    return data, r"rows\.csv: row 17: a: the value is missing"


def an_empty_column(folder: Path) -> Case:
    text = "a,b,y\n" + "1,,no\n2,,yes\n" * 20
    return {"source": _text(folder, text), **TARGET}, "column 'b' has no value in any of 40 rows"


# Targets ------------------------------------------------------------------------------------------


def a_missing_target(folder: Path) -> Case:
    return {
        "source": _text(folder, _table(y="")),
        **TARGET,
    }, r"rows\.csv: row 17: y: the target is missing"


def no_target_at_all(folder: Path) -> Case:
    return {
        "source": _text(folder, "a,y\n" + "1,\n" * 30),
        **TARGET,
    }, "target 'y': no row has a value"


def a_label_outside_the_classes(folder: Path) -> Case:
    data = {"source": _text(folder, _table(y="maybe")), **TARGET, "classes": ["no", "yes"]}
    return (
        data,
        r"rows\.csv: row 17: y: label 'maybe' is not one of data\.classes\n  They are no, yes",
    )


def one_class_only(folder: Path) -> Case:
    return {
        "source": _text(folder, "a,y\n" + "1,no\n" * 40),
        **TARGET,
    }, "all training rows have the same label, 'no'"


def a_test_label_that_training_never_saw(folder: Path) -> Case:
    parts = {"train": _text(folder, _table()), "test": _text(folder, _table(y="maybe"), "test.csv")}
    return {
        "source": parts,
        **TARGET,
    }, r"test\.csv: row 17: y: label 'maybe' of a test row was never seen in training"


def a_number_for_each_row_as_classes(folder: Path) -> Case:
    text = "a,y\n" + "".join(f"1,{row}.5\n" for row in range(300))
    return {
        "source": _text(folder, text),
        **TARGET,
    }, r"target 'y' has \d+ distinct labels.*\n  Is this task: regression"


def a_word_as_target_of_a_regression(folder: Path) -> Case:
    data = {
        "source": _text(folder, "a,y\n" + "1,2\n" * 5 + "1,many\n" * 5),
        **TARGET,
        "task": "regression",
    }
    return data, r"rows\.csv: row 6: y: 'many' is not a number"


def nan_as_target_of_a_regression(folder: Path) -> Case:
    table = pa.table({"a": [1.0] * 20, "y": [1.0] * 9 + [float("nan")] + [2.0] * 10})
    pq.write_table(table, folder / "rows.parquet")
    data = {"source": str(folder / "rows.parquet"), **TARGET, "task": "regression"}
    return data, r"rows\.parquet: row 10: y: the target is missing"


def infinity_as_target_of_a_regression(folder: Path) -> Case:
    table = pa.table({"a": [1.0] * 20, "y": [1.0] * 9 + [float("inf")] + [2.0] * 10})
    pq.write_table(table, folder / "rows.parquet")
    data = {"source": str(folder / "rows.parquet"), **TARGET, "task": "regression"}
    return data, r"rows\.parquet: row 10: y: inf is not a finite number"


def too_few_rows_to_split(folder: Path) -> Case:
    return {"source": _text(folder, "a,y\n1,no\n2,yes\n"), **TARGET}, r"of 2 rows none is left for"


# Images -------------------------------------------------------------------------------------------


def an_unreadable_image(folder: Path) -> Case:
    photos = _photos(folder)
    (photos / "dog" / "07.png").write_bytes(b"this is text")
    return {"source": str(photos)}, rf"{photos}/dog/07\.png: not a readable image: not an image"


def a_truncated_image(folder: Path) -> Case:
    photos, buffer = _photos(folder), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(
        buffer, "JPEG"
    )
    (photos / "dog" / "07.png").write_bytes(buffer.getvalue()[:2000])
    return {"source": str(photos)}, rf"{photos}/dog/07\.png: not a readable image: .*truncated"


def images_of_two_sizes(folder: Path) -> Case:
    photos = _photos(folder, ((8, 8), (8, 9)))
    places = rf"{photos}/cat/00\.png is 8x8, but {photos}/dog/01\.png is 8x9"
    return {
        "source": str(photos)
    }, rf"images differ in size: {places} .*\n.*data\.features\.image_size"


def an_image_in_the_wrong_folder(folder: Path) -> Case:
    photos = _photos(folder)
    (photos / "dog" / "07.png").rename(photos / "07.png")
    return {
        "source": str(photos)
    }, r"07\.png does not fit an image folder\n.*folder/<class>/<image>"


def idx_with_a_wrong_magic_number(folder: Path) -> Case:
    data = _idx_pair(folder, b"\x00\x00\x0b" + idx(IMAGES)[3:], idx(LABELS))
    return (
        data,
        r"images-idx3-ubyte: magic number 0x00000b03 is not that of IDX uint8 images, 0x00000803",
    )


def idx_images_and_labels_exchanged(folder: Path) -> Case:
    return _idx_pair(
        folder, idx(LABELS), idx(IMAGES)
    ), r"images-idx3-ubyte: .*\n  Are images and labels swapped\?"


def idx_cut_off(folder: Path) -> Case:
    data = _idx_pair(folder, idx(IMAGES)[:-9], idx(LABELS))
    return data, r"images-idx3-ubyte: the header says 10 x 4 x 4, 160 bytes, but 151 follow"


def idx_with_fewer_labels(folder: Path) -> Case:
    return _idx_pair(
        folder, idx(IMAGES), idx(LABELS[:9])
    ), r"images-idx3-ubyte: 10 images, but 9 labels in .*labels-idx1"


def idx_without_labels(folder: Path) -> Case:
    (folder / "images-idx3-ubyte").write_bytes(idx(IMAGES))
    return {
        "source": str(folder)
    }, r"images-idx3-ubyte: the file of labels that belongs to it is missing"


CASES: list[Callable[[Path], Case]] = [
    value
    for value in list(globals().values())
    if callable(value) and getattr(value, "__annotations__", {}).get("return") == "Case"
]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_prepare_broken_data_gives_one_message(
    tmp_path: Path, make: Callable[[Path], Case]
) -> None:
    (tmp_path / "data").mkdir()
    data, message = make(tmp_path / "data")
    with pytest.raises(DataError, match=message) as raised:
        preparing.run(tmp_path / "storage", data)
    assert type(raised.value) is DataError
    assert "\n" not in raised.value.message
    assert [path for path in (tmp_path / "storage").rglob("*") if path.name != "data"] == []


def test_broken_data_has_enough_cases() -> None:
    assert len(CASES) >= 40


def test_first_fault_is_the_same_at_any_parallelism(tmp_path: Path) -> None:
    for index in range(4):
        rows = people(50, index)
        rows[20 + index]["age"] = "unknown"
        write_csv(tmp_path / "rows" / f"{index}.csv", rows)
    data = {"source": str(tmp_path / "rows"), "features": {"columns": {"age": "numeric"}}}
    for parallelism in (None, 1, 7):
        with pytest.raises(DataError, match=r"rows/0\.csv: row 21: age: 'unknown' is not a number"):
            preparing.run(tmp_path / "storage", data, parallelism=parallelism)
