"""Scans of columns: the same however the rows are cut, and through JSON."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import values
from raydc.data.column_scan import BlockScan, Occurrences, merge_scans, scan_block


def _scan(cells: list[Any], cuts: list[int]) -> BlockScan:
    """Scan of a column `a` of text whose rows are cut into blocks."""
    table = pa.table(
        {values.ROW_ID: np.arange(len(cells), dtype=np.int64), "a": pa.array(cells, pa.string())}
    )
    bounds = [0, *cuts, len(cells)]
    blocks = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    return merge_scans(scan_block(block) for block in blocks)


@pytest.mark.parametrize("cuts", [[], [1], [3], [0, 2, 4, 5], [1, 2, 3, 4, 5, 6, 7]])
def test_merge_scans_does_not_depend_on_where_rows_are_cut(cuts: list[int]) -> None:
    cells = ["1", None, "2", "inf", "x", "y", None]
    found = _scan(cells, cuts)
    assert found == _scan(cells, [])
    column = found.columns["a"]
    assert column.missing == column.missing_numbers == Occurrences(2, 1)
    assert column.wrong == Occurrences(2, 4, "'x'")
    assert column.infinite == Occurrences(1, 3, "'inf'")
    assert column.kinds == ("text",)


def test_merge_scans_counts_a_column_as_missing_where_blocks_lack_it() -> None:
    first = pa.table({values.ROW_ID: np.array([0, 1]), "a": ["1", "2"]})
    second = pa.table({values.ROW_ID: np.array([2, 3, 4]), "b": ["1", "2", "3"]})
    columns = merge_scans(map(scan_block, (first, second))).columns
    assert columns["a"].missing == Occurrences(3, 2)
    assert columns["b"].missing == Occurrences(2, 0)


def test_scan_of_images_keeps_the_first_row_of_each_shape() -> None:
    shapes = [(2, 3, 1), (2, 3, 1), (4, 3, 3)]
    images = [np.zeros(shape, dtype=np.uint8) for shape in shapes]
    ids = np.array([7, 8, 9])
    table = pa.table({values.ROW_ID: ids, "a": values.image_array([*images[:1], None, images[2]])})
    column = scan_block(table).columns["a"]
    assert column.shapes == {"2x3x1": 7, "4x3x3": 9}
    assert column.missing == Occurrences(1, 8)


def test_scan_survives_json() -> None:
    table = pa.table(
        {
            values.ROW_ID: np.array([3, 4]),
            "number": [1.0, float("nan")],
            "date": pa.array([0, 1], pa.date32()),
            "image": values.image_array([np.zeros((2, 3, 1), dtype=np.uint8), None]),
            "text": ["inf", "x"],
        }
    )
    scan = scan_block(table)
    assert scan.columns["date"].arrow_type == "date32[day]"
    assert BlockScan.from_json(json.loads(json.dumps(scan.to_json()))) == scan


def test_scan_of_a_block_without_rows_has_nothing() -> None:
    assert scan_block(pa.table({})) == scan_block(pa.table({values.ROW_ID: [1]}).slice(1))
