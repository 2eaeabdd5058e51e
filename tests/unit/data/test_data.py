"""The pure parts of preparation: exact sums, splits, shards' plans, the kinds of columns, the layout of sources."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import clean, fit, infer, moments, parse, sources, values, write
from raydc.errors import DataError
from raydc.spec import loads

# Sums ------------------------------------------------------------------------------------------------

NUMBERS = [
    np.array([0.1] * 10),
    np.array([1e308, 1.0, -1e308, 5e-324]),
    np.array([-1.5, 2.25, 1e-300, -0.0]),
    np.random.default_rng(0).normal(size=1000)
    * 10.0 ** np.random.default_rng(1).integers(-50, 50, 1000),
    np.array([]),
]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_moments_are_exact(numbers: Any) -> None:
    total, squares = moments.exact_moments(numbers)
    exact = [Fraction(number) for number in numbers.tolist()]
    assert Fraction(total, 1 << moments.SHIFT) == sum(exact)
    assert Fraction(squares, 1 << 2 * moments.SHIFT) == sum(number * number for number in exact)


def test_the_order_of_adding_does_not_matter() -> None:
    numbers = NUMBERS[3]
    whole = moments.exact_moments(numbers)
    cut = np.split(np.random.default_rng(2).permutation(numbers), [1, 10, 400, 999])
    assert (
        tuple(map(sum, zip(*(moments.exact_moments(part) for part in cut), strict=True))) == whole
    )
    assert math.fsum(numbers) == float(Fraction(whole[0], 1 << moments.SHIFT))


def test_merging_does_not_confuse_names_with_keys() -> None:
    # Categories and labels may be called like the keys of a partial.
    part = {
        "rows": [1, 0, 0],
        "dropped": 0,
        "labels": {"train": {"min": [1, 0], "rows": [2, 5]}},
        "inputs": {"counts": {"counts": {"low": 2, "sum": 3}, "missing": 1}},
    }
    total = fit.merge([part, part])
    assert total["labels"] == {"train": {"min": [2, 0], "rows": [4, 5]}}
    assert total["inputs"]["counts"] == {"counts": {"low": 4, "sum": 6}, "missing": 2}


# Splits and shards -----------------------------------------------------------------------------------


def test_the_hash_split_keeps_to_its_fractions() -> None:
    ids = np.arange(100_000, dtype=np.int64)
    splits = clean.hash_split(ids, 0, 0.1, 0.2)
    assert np.bincount(splits, minlength=3) / len(ids) == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    # Ids of single rows in many files, as an image folder has them, are no worse.
    splits = clean.hash_split(ids[:10_000] << 40, 0, 0.1, 0.2)
    assert np.bincount(splits, minlength=3) / 10_000 == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_a_row_keeps_its_split_whatever_happens_to_others() -> None:
    ids = np.arange(1000, dtype=np.int64)
    whole = clean.hash_split(ids, 3, 0.1, 0.2)
    np.testing.assert_array_equal(clean.hash_split(ids[::7], 3, 0.1, 0.2), whole[::7])
    assert (clean.hash_split(ids, 4, 0.1, 0.2) != whole).any()


def test_the_lowest_of_equal_rows_stays() -> None:
    copies = clean.later_copies(np.array([9, 2, 5, 7]), [b"a", b"b", b"a", b"b"])
    assert copies.tolist() == [7, 9]


@pytest.mark.parametrize("rows_per_shard", [1, 3, 10, 100])
def test_shards_take_every_row_once_and_in_order(rows_per_shard: int) -> None:
    num_rows = [[5, 0, 2], [0, 0, 0], [7, 1, 0], [1, 3, 9]]
    plan = write.plan_shards(num_rows, rows_per_shard)
    for split in range(3):
        shards = [shard for shard in plan if shard.split == split]
        taken = [
            (block, row) for shard in shards for block, a, b in shard.pieces for row in range(a, b)
        ]
        assert taken == [
            (block, row) for block, counts in enumerate(num_rows) for row in range(counts[split])
        ]
        sizes = [sum(b - a for _, a, b in shard.pieces) for shard in shards]
        assert all(size == rows_per_shard for size in sizes[:-1])
        assert [shard.index for shard in shards] == list(range(len(shards)))


# Values ----------------------------------------------------------------------------------------------


def test_text_of_numbers_counts_as_numbers() -> None:
    column = pa.array(
        [
            "1",
            " 2.5 ",
            "+3",
            "1.",
            ".5",
            "-1e3",
            "NaN",
            "-inf",
            None,
            "",
            " ",
            "x",
            "1_0",
            "0x1",
            "1,5",
        ]
    )
    parsed = values.parse_numbers(column)
    np.testing.assert_array_equal(parsed.values[:6], [1, 2.5, 3, 1, 0.5, -1000])
    assert parsed.values[7] == -np.inf
    assert parsed.missing.tolist() == [False] * 6 + [True, False, True] + [False] * 6
    assert parsed.wrong.tolist() == [False] * 9 + [True] * 6


def test_numbers_are_read_as_python_reads_them() -> None:
    texts = [repr(float(x)) for x in np.random.default_rng(0).normal(size=1000) * 1e10]
    assert values.parse_numbers(pa.array(texts)).values.tolist() == [float(text) for text in texts]


def test_images_survive_arrow() -> None:
    block = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    for column in (
        values.image_block(block),
        values.image_array([image[:, :, None] for image in block]),
    ):
        assert column.type == values.IMAGE
        for index, image in enumerate(values.images_of(column.slice(1, 3))):
            np.testing.assert_array_equal(image[:, :, 0], block[index + 1])


def _scans(cells: list[Any], cuts: list[int]) -> dict[str, Any]:
    table = pa.table(
        {values.ROW_ID: np.arange(len(cells), dtype=np.int64), "a": pa.array(cells, pa.string())}
    )
    bounds = [0, *cuts, len(cells)]
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    return infer.merge(scan for scan in map(infer.scan, parts) if scan["rows"])


@pytest.mark.parametrize("cuts", [[], [1], [3], [2, 4, 5], [1, 2, 3, 4, 5, 6]])
def test_what_a_column_is_does_not_depend_on_where_it_is_cut(cuts: list[int]) -> None:
    cells = ["1", None, "2", "inf", "x", "y", None]
    assert _scans(cells, cuts) == _scans(cells, [])
    column = _scans(cells, cuts)["columns"]["a"]
    assert (column["missing"], column["first_missing"]) == (2, 1)
    assert (column["wrong"], column["first_wrong"]) == (2, [4, "'x'"])
    assert (column["infinite"], column["first_infinite"]) == (1, [3, "'inf'"])


def test_a_column_that_some_lines_lack_is_missing_there() -> None:
    first = pa.table({values.ROW_ID: np.array([0, 1]), "a": ["1", "2"]})
    second = pa.table({values.ROW_ID: np.array([2, 3, 4]), "b": ["1", "2", "3"]})
    columns = infer.merge(map(infer.scan, (first, second)))["columns"]
    assert (columns["a"]["missing"], columns["a"]["first_missing"]) == (3, 2)
    assert (columns["b"]["missing"], columns["b"]["first_missing"]) == (2, 0)


def test_idx_of_any_shape() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = bytes([0, 0, 8, 3]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
    np.testing.assert_array_equal(parse.read_idx(content, "file", 3), array)
    for broken in (b"", content[:3], content[:9], content[:-1], content + b"x"):
        with pytest.raises(DataError, match=r"^file: "):
            parse.read_idx(broken, "file", 3)


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        (
            b'{"a": 1, "b": 1.5, "c": 2.0, "d": true, "e": null, "f": "x"}',
            ["1", "1.5", "2", "true", None, "x"],
        ),
        (b'{"a": NaN, "b": 12345678901234567890}', [None, "12345678901234567890"]),
    ],
)
def test_cells_of_json_lines_are_text(line: bytes, cells: list[Any]) -> None:
    assert list(parse.json_row("file", 0, line).values()) == cells


# Sources ---------------------------------------------------------------------------------------------


def _locate(source: str, more: str = "") -> sources.Layout:
    spec = loads(f"name: x\ndata:\n  source: {source}\n{more}\nmodel: {{name: linear}}\n")
    return sources.locate(spec.data)


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def test_files_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    _touch(tmp_path, "b.csv", "a.csv.gz", "sub/c.tsv", "README.md", ".hidden.csv", "_SUCCESS")
    layout = _locate(str(tmp_path))
    assert layout.format == "csv"
    assert [file.name for file in layout.files] == ["a.csv.gz", "b.csv", "sub/c.tsv"]
    assert layout.place((2 << 40) + 16) == f"{tmp_path}/sub/c.tsv: row 17"


def test_a_glob_chooses_files(tmp_path: Path) -> None:
    _touch(tmp_path, "a1.parquet", "a2.parquet", "b1.parquet")
    assert [file.name for file in _locate(f"{tmp_path}/a*.parquet").files] == [
        "a1.parquet",
        "a2.parquet",
    ]
    with pytest.raises(DataError, match="no file matches"):
        _locate(f"{tmp_path}/c*.parquet")


def test_test_files_come_after_training_files(tmp_path: Path) -> None:
    _touch(tmp_path, "test/cat/0.jpg", "train/cat/1.jpg", "train/dog/0.JPG", "train/dog/notes.txt")
    layout = _locate(str(tmp_path))
    assert [(file.part, file.label) for file in layout.files] == [
        ("train", "cat"),
        ("train", "dog"),
        ("test", "cat"),
    ]
    assert layout.first_test_id == 2 << 40


def test_idx_files_find_their_labels(tmp_path: Path) -> None:
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


def test_idx_files_may_have_any_name(tmp_path: Path) -> None:
    _touch(tmp_path, "pixels", "answers")
    (file,) = _locate(f"{{images: {tmp_path}/pixels, labels: {tmp_path}/answers}}").files
    assert file.labels is not None
    assert (file.name, file.labels.name) == ("pixels", "answers")


def test_parts_of_two_formats_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv", "b.parquet")
    with pytest.raises(DataError, match="train and test have different formats: csv, parquet"):
        _locate(f"{{train: {tmp_path}/a.csv, test: {tmp_path}/b.parquet}}")
