"""Fits the features of a data set from the statistics of its training rows. Runs in the driver.

The statistics are exact. They are rounded here and only once, so that the features do not depend on
how the rows were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from raydc.data.clean import Cleaner
from raydc.data.column_notes import spelt_like, to_exclude
from raydc.data.column_statistics import (
    CategoryCounts,
    ColumnStatistics,
    LabelCount,
    NumberSums,
    PixelHistogram,
    RowStatistics,
)
from raydc.data.layout import Layout
from raydc.data.moments import square_root
from raydc.data.shards import SPLITS
from raydc.errors import DataError
from raydc.features import Categorical, Column, Features, Image, Numeric, Signature
from raydc.spec.label_text import text_of
from raydc.spec.sections import Data

# Up to this many classes need no confirmation, even if most of them have a single row.
_MIN_DOUBTFUL_CLASSES = 100


def fit_features(
    total: RowStatistics, cleaner: Cleaner, layout: Layout, ignored: Sequence[str]
) -> Features:
    """Fits the features of a data set.

    Args:
        total: Merged statistics of all blocks.
        cleaner: Holds the kind of each column and the section `data` of the spec.
        layout: Files of the source, from which messages take the place of a row.
        ignored: Columns that a raw row may have and that are no inputs.

    Raises:
        DataError: A column has no value in the training rows, or the labels are not valid classes.
    """
    data = cleaner.data
    inputs = {name: _fit_column(name, total.inputs[name], cleaner) for name in cleaner.kinds}
    classes: tuple[str, ...] = ()
    target_mean, target_scale = 0.0, 1.0
    target = total.inputs.get(data.target)
    num_training_rows = total.num_rows[SPLITS.index("train")]
    if isinstance(target, NumberSums):
        target_mean, target_scale = target.mean_and_deviation()
    else:
        classes = _find_classes(total.labels, data, layout)
    return Features(
        _make_signature(inputs, total, cleaner, classes),
        data.target,
        inputs,
        target_mean,
        target_scale,
        tuple(ignored),
        # Other formats have real nulls, so no text means "missing".
        tuple(data.clean.missing_values) if layout.format == "csv" else (),
        tuple(name for name in inputs if _is_always_given(total.inputs[name], num_training_rows)),
    )


def _is_always_given(statistics: ColumnStatistics, num_training_rows: int) -> bool:
    if isinstance(statistics, CategoryCounts):
        return statistics.num_missing == 0
    # An image cannot be filled in, so a row without one is refused anyway.
    return isinstance(statistics, NumberSums) and statistics.num_values == num_training_rows


def _fit_column(name: str, statistics: ColumnStatistics, cleaner: Cleaner) -> Column:
    if isinstance(statistics, PixelHistogram):
        return Image(statistics.height, statistics.width, statistics.channels, as_shown=True)
    num_values = (
        len(statistics.counts) if isinstance(statistics, CategoryCounts) else statistics.num_values
    )
    if not num_values:
        message = f"column {name!r} has no value in any training row"
        raise DataError(message, f"Leave it out: {to_exclude([name], cleaner.data)}")
    if isinstance(statistics, CategoryCounts):
        return _fit_categories(statistics, cleaner.data.features.max_categories)
    mean, deviation = statistics.mean_and_deviation()
    if cleaner.data.features.scale == "none":
        return Numeric(mean, 0.0, 1.0)
    if cleaner.data.features.scale == "min_max":
        # A constant column has no range to divide by.
        return Numeric(mean, statistics.low, (statistics.high - statistics.low) or 1.0)
    return Numeric(mean, mean, deviation)


def _fit_categories(statistics: CategoryCounts, max_categories: int) -> Categorical:
    # Names break ties, so that the order does not depend on which block came first.
    ranked = sorted(statistics.counts.items(), key=lambda item: (-item[1], item[0]))
    categories = tuple(category for category, _ in ranked[:max_categories])
    return Categorical(
        categories,
        has_other=len(ranked) > len(categories),
        has_missing=statistics.num_missing > 0,
    )


def _make_signature(
    inputs: dict[str, Column], total: RowStatistics, cleaner: Cleaner, classes: tuple[str, ...]
) -> Signature:
    # An image is the only input column of its data set: `ColumnKinds` refuses others.
    task, (name, first) = cleaner.data.task, next(iter(inputs.items()))
    statistics = total.inputs[name]
    if not isinstance(first, Image) or not isinstance(statistics, PixelHistogram):
        num_inputs = sum(
            column.num_inputs for column in inputs.values() if not isinstance(column, Image)
        )
        return Signature("vector", (num_inputs,), "float32", (), (), task, classes)
    mean, scale = _pixel_scale(statistics, cleaner.data.features.scale)
    return Signature("image", first.shape, "uint8", mean, scale, task, classes)


def _pixel_scale(
    statistics: PixelHistogram, scale: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and divisor of each channel, in units of pixels."""
    channels = statistics.channels
    if scale != "standard":
        return (0.0,) * channels, (255.0 if scale == "min_max" else 1.0,) * channels
    means, deviations = [], []
    for counts in statistics.counts[:channels]:
        num_pixels = sum(counts)
        mean = Fraction(sum(value * count for value, count in enumerate(counts)), num_pixels)
        square = Fraction(
            sum(value * value * count for value, count in enumerate(counts)), num_pixels
        )
        means.append(float(mean))
        deviations.append(square_root(square - mean * mean) or 1.0)
    return tuple(means), tuple(deviations)


def _find_classes(
    labels: dict[str, dict[str, LabelCount]], data: Data, layout: Layout
) -> tuple[str, ...]:
    training = labels["train"]
    num_rows = sum(found.count for found in training.values())
    if len(training) < 2:
        only = ", ".join(repr(label) for label in training)
        raise DataError(
            f"target {data.target!r}: all training rows have the same label, {only}",
            "A classification needs at least two classes.",
        )
    if data.classes is None and len(training) > max(_MIN_DOUBTFUL_CLASSES, num_rows // 2):
        message = (
            f"target {data.target!r} has {len(training):,} different labels in {num_rows:,} rows"
        )
        raise DataError(message, "Is this task: regression? Otherwise list them: data.classes.")
    classes = tuple(data.classes or _sort_labels(training))
    by_text = {text_of(name): name for name in reversed(classes)}
    for name in classes:
        if by_text[text_of(name)] != name:
            raise DataError(
                f"data.classes: {by_text[text_of(name)]!r} and {name!r} are the same label",
                "A whole number counts as one label with and without its decimal point.",
            )
    for split, found in labels.items():
        unknown = [(seen.first_row, label) for label, seen in found.items() if label not in by_text]
        if not unknown:
            continue
        row_id, label = min(unknown)
        place = f"{layout.describe_row(row_id)}: {data.target}: label {label!r}"
        alike = spelt_like(label, classes)
        if data.classes is not None:
            hint = alike or f"They are {', '.join(classes)}."
            raise DataError(f"{place} is not one of data.classes", hint)
        hint = alike or (
            f"The training rows have {', '.join(classes)}. List all classes in data.classes."
        )
        raise DataError(f"{place} of a {split} row was never seen in training", hint)
    return classes


def _sort_labels(labels: Iterable[str]) -> list[str]:
    """Sorts by number if all labels are numbers ("2" before "10"), else by text."""
    names = sorted(labels)
    try:
        return sorted(names, key=float)
    except ValueError:
        return names
