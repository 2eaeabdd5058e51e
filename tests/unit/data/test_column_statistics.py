"""Statistics of blocks: the same however the rows are cut, and through JSON."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import values
from raydc.data.clean import Cleaner
from raydc.data.column_statistics import (
    CategoryCounts,
    LabelCount,
    PixelHistogram,
    RowStatistics,
    measure_block,
    merge_statistics,
)
from raydc.spec import from_dict, resolve

NUM_ROWS = 60


def _cleaner(task: str, kinds: dict[str, str]) -> Cleaner:
    section = {"source": "rows.csv", "target": "y", "task": task}
    spec = from_dict({"name": "x", "data": section, "model": {"name": "linear"}})
    return Cleaner(None, resolve(spec).data, 0, kinds)


def _table() -> pa.Table:
    generator = np.random.default_rng(0)
    return pa.table(
        {
            values.ROW_ID: np.arange(NUM_ROWS, dtype=np.int64),
            "a": generator.normal(size=NUM_ROWS),
            "b": [("u", "v", None)[row % 3] for row in range(NUM_ROWS)],
            "y": [str(row % 4) for row in range(NUM_ROWS)],
        }
    )


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("cuts", [[1], [20, 40], list(range(1, NUM_ROWS))])
def test_merge_statistics_does_not_depend_on_where_rows_are_cut(task: str, cuts: list[int]) -> None:
    table, cleaner = _table(), _cleaner(task, {"a": "numeric", "b": "categorical"})
    bounds = [0, *cuts, NUM_ROWS]
    blocks = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    parts = [measure_block(block, cleaner) for block in blocks]
    assert merge_statistics(parts) == measure_block(table, cleaner)


def test_merge_statistics_keeps_names_that_look_like_keys() -> None:
    part = RowStatistics(
        (1, 0, 0),
        labels={"train": {"min": LabelCount(1, 0), "total": LabelCount(2, 5)}},
        inputs={"counts": CategoryCounts({"low": 2, "total": 3}, 1)},
    )
    part = RowStatistics.from_json(json.loads(json.dumps(part.to_json())))
    total = merge_statistics([part, part])
    assert total.labels == {"train": {"min": LabelCount(2, 0), "total": LabelCount(4, 5)}}
    assert total.inputs["counts"] == CategoryCounts({"low": 4, "total": 6}, 2)
    assert total.num_rows == (2, 0, 0)


def test_merge_statistics_of_no_block_is_empty() -> None:
    assert merge_statistics([]) == RowStatistics()


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_statistics_survive_json(task: str) -> None:
    statistics = measure_block(_table(), _cleaner(task, {"a": "numeric", "b": "categorical"}))
    restored = RowStatistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert restored == statistics


def test_histogram_counts_grey_images_in_all_channels() -> None:
    grey = np.full((2, 3, 1), 7, dtype=np.uint8)
    colour = np.zeros((1, 4, 3), dtype=np.uint8)
    colour[:, :, 2] = 9
    table = pa.table(
        {
            # Ids of training rows with the seed 0.
            values.ROW_ID: np.array([0, 1], dtype=np.int64),
            "image": values.image_array([grey, colour]),
            "y": ["u", "v"],
        }
    )
    statistics = measure_block(table, _cleaner("classification", {"image": "image"}))
    assert statistics.num_rows == (2, 0, 0)
    histogram = statistics.inputs["image"]
    assert isinstance(histogram, PixelHistogram)
    assert (histogram.height, histogram.width, histogram.channels) == (2, 4, 3)
    found = [{v: n for v, n in enumerate(counts) if n} for counts in histogram.counts]
    assert found == [{7: 6, 0: 4}, {7: 6, 0: 4}, {7: 6, 9: 4}]
    restored = RowStatistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert restored == statistics
