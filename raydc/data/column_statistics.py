"""Exact statistics of a block's rows, from which features are fitted.

Runs in tasks of Ray Data; the statistics are merged in the driver. All of them are whole numbers,
extremes and first places, so merging rounds nothing and the features are the same however the rows
were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raydc.data import label_sets, values
from raydc.data.clean import DROPPED, TRAIN, Cleaner, SplitCodes
from raydc.data.column_sums import (
    CategoryCounts,
    ColumnStatistics,
    NumberSums,
    PixelHistogram,
    add_all,
    column_from_json,
    sums_of,
)
from raydc.data.list_statistics import measure_lists
from raydc.data.moments import exact_moments
from raydc.data.shards import SPLITS
from raydc.data.target_sums import measure_targets
from raydc.data.word_counts import count_words
from raydc.features import images
from raydc.features.coded_texts import CodedTexts
from raydc.features.number_column import signed_log
from raydc.order import Ids


@dataclass(frozen=True)
class LabelCount:
    """Rows of one label.

    Attributes:
        count: Number of rows with the label.
        first_row: Lowest row id among them.
    """

    count: int
    first_row: int


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of some rows.

    Attributes:
        num_rows: Rows of each split, in the order of `shards.SPLITS`.
        num_dropped: Rows in no split.
        labels: Classes or labels of the target, by split; none for a regression.
        inputs: Statistics of each input column over the training rows, and of the target of a
            regression.
    """

    num_rows: tuple[int, ...] = (0,) * len(SPLITS)
    num_dropped: int = 0
    labels: dict[str, dict[str, LabelCount]] = field(default_factory=dict)
    inputs: dict[str, ColumnStatistics] = field(default_factory=dict)

    def plus(self, later: RowStatistics) -> RowStatistics:
        """Adds the statistics of later rows."""
        return RowStatistics(
            add_all(self.num_rows, later.num_rows),
            self.num_dropped + later.num_dropped,
            {
                split: _add_labels(self.labels.get(split), later.labels.get(split))
                for split in {**self.labels, **later.labels}
            },
            {
                name: _add_columns(self.inputs.get(name), later.inputs.get(name))
                for name in {**self.inputs, **later.inputs}
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Converts it to plain JSON values, which a task returns."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RowStatistics:
        """The inverse of `to_json`."""
        labels = {
            split: {label: LabelCount(**count) for label, count in counts.items()}
            for split, counts in value["labels"].items()
        }
        inputs = {name: column_from_json(column) for name, column in value["inputs"].items()}
        return cls(tuple(value["num_rows"]), value["num_dropped"], labels, inputs)


def measure_block(table: pa.Table, cleaner: Cleaner) -> RowStatistics:
    """Measures the rows of one block.

    Args:
        table: Raw rows of the block, with their ids.
        cleaner: Assigns them to splits, and knows the kinds of the columns.
    """
    splits, ids = cleaner.assign_splits(table), values.row_ids(table)
    # Statistics of held-out rows must not enter the features.
    training = table.filter(pa.array(splits == TRAIN))
    kinds, labels = dict(cleaner.kinds), {}
    if cleaner.data.task == "regression":
        kinds[cleaner.data.target] = "numeric"
    else:
        texts = values.coded_texts(values.column_of(table, cleaner.data.target))
        several = cleaner.data.task == "multilabel"
        found = texts.distinct
        sets = label_sets.parse_all(found) if several else [[str(text)] for text in found]
        labels = _count_labels(texts, sets, splits, ids)
    return RowStatistics(
        tuple(int((splits == code).sum()) for code in range(len(SPLITS))),
        int((splits == DROPPED).sum()),
        labels,
        {name: _measure_column(training, name, kind, cleaner) for name, kind in kinds.items()},
    )


def _measure_column(training: pa.Table, name: str, kind: str, cleaner: Cleaner) -> ColumnStatistics:
    features, target = cleaner.data.features, cleaner.data.target
    if kind == "numeric":
        has_log = name != target and features.scale_of(name) == "log"
        return _measure_numbers(cleaner.numbers(training, name), has_log)
    column = values.column_of(training, name)
    if kind == "categorical" and features.encodings.get(name) == "target":
        counts, texts = _measure_categories(column), values.to_texts(column)
        found = values.column_of(training, target)
        is_regression = cleaner.data.task == "regression"
        sums = measure_targets(texts, found, values.row_ids(training), is_regression)
        return replace(counts, targets=sums)
    if kind == "text":
        return count_words(column, cleaner.data.features.text)
    if kind == "list":
        return measure_lists(column, cleaner.data.features.max_items)
    return _MEASURES[kind](column)


def _count_labels(
    texts: CodedTexts, labels: Sequence[Sequence[str]], splits: SplitCodes, ids: Ids
) -> dict[str, dict[str, LabelCount]]:
    """Counts each label in each split; `labels` has those of each distinct text."""
    result = {}
    for code, name in enumerate(SPLITS):
        rows = np.flatnonzero(splits == code)
        used, first, num_rows = np.unique(
            texts.codes_B[rows], return_index=True, return_counts=True
        )
        counts: dict[str, list[int]] = {}
        # In the order of the first rows, as the rows themselves would be counted.
        for place in np.argsort(first).tolist():
            for label in labels[int(used[place])]:
                first_id = int(ids[rows[first[place]]])
                counts.setdefault(label, [0, first_id])[0] += int(num_rows[place])
        result[name] = {label: LabelCount(*found) for label, found in counts.items()}
    return result


def measure_numbers(column: pa.Array) -> NumberSums:
    """Measures a column of finite numbers, or of text that holds them."""
    return _measure_numbers(values.parse_numbers(column))


def _measure_numbers(parsed: values.Parsed, has_log: bool = False) -> NumberSums:
    numbers = parsed.values[~parsed.missing]
    logs = exact_moments(signed_log(numbers)) if has_log else None
    return replace(sums_of(numbers), logs=logs)


def _measure_categories(column: pa.Array) -> CategoryCounts:
    counts = values.coded_texts(column).counts()
    missing = counts.pop(None, 0)
    return CategoryCounts({str(text): count for text, count in counts.items()}, missing)


def measure_images(column: pa.Array) -> PixelHistogram:
    """Measures a column of images without nulls."""
    # Pixels have 256 values, so that their histogram is exact and small.
    histogram = np.zeros((3, 256), dtype=np.int64)
    height, width, channels = 0, 0, 1
    for pixels_HWC in values.to_images(column):
        height, width = max(height, pixels_HWC.shape[0]), max(width, pixels_HWC.shape[1])
        channels = max(channels, pixels_HWC.shape[2])
        # The only row of a grey image is added to all three.
        histogram += images.histogram(pixels_HWC)
    rows = tuple(tuple(row) for row in histogram.tolist())
    files = values.file_sizes(column)
    return PixelHistogram(height, width, channels, rows, len(column), len(files), sum(files))


_MEASURES: dict[str, Callable[[pa.Array], ColumnStatistics]] = {
    "categorical": _measure_categories,
    "image": measure_images,
}


def merge_statistics(parts: Sequence[RowStatistics]) -> RowStatistics:
    """Merges the statistics of blocks, given in the order of their rows."""
    level = list(parts) or [RowStatistics()]
    # Pair by pair: a dict of millions of labels is copied log2(n) times for n blocks, not n times.
    while len(level) > 1:
        pairs = [level[start : start + 2] for start in range(0, len(level), 2)]
        level = [pair[0].plus(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def _add_labels(
    a: dict[str, LabelCount] | None, b: dict[str, LabelCount] | None
) -> dict[str, LabelCount]:
    total = dict(a or {})
    for label, found in (b or {}).items():
        before = total.get(label, LabelCount(0, found.first_row))
        total[label] = LabelCount(before.count + found.count, before.first_row)
    return total


def _add_columns(a: ColumnStatistics | None, b: ColumnStatistics | None) -> ColumnStatistics:
    if a is None or b is None:
        return a or b  # type: ignore[return-value]  # One of the two has the column.
    # All blocks measure a column as the same kind, which is decided before.
    return a.plus(b)  # type: ignore[arg-type]
