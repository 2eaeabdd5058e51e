"""Fits the features of a data set from the statistics of its training rows. Runs in the driver.

The statistics are exact. They are rounded here and only once, so that the features do not depend on
how the rows were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from raydc.data import window_fit
from raydc.data.clean import Cleaner
from raydc.data.column_notes import spelt_like, to_exclude
from raydc.data.column_statistics import LabelCount, RowStatistics
from raydc.data.column_sums import (
    CategoryCounts,
    ColumnStatistics,
    ListSums,
    NumberSums,
    PixelHistogram,
)
from raydc.data.fit_categories import fit_categories
from raydc.data.fit_lists import fit_lists
from raydc.data.fit_numbers import fit_numbers
from raydc.data.fit_target_means import fit_target_means
from raydc.data.layout import Layout
from raydc.data.moments import square_root
from raydc.data.rank_search import Orders
from raydc.data.shards import SPLITS
from raydc.data.tokenizer_file import check_tokenizer
from raydc.data.word_counts import WordCounts
from raydc.errors import DataError, shown
from raydc.features import (
    CategoryCodes,
    Column,
    Features,
    Field,
    Image,
    NumberList,
    SeriesWindow,
    Signature,
    Text,
    text_column,
)
from raydc.features.record import LENGTH
from raydc.features.row_inputs import layout_of, table_columns
from raydc.features.table_layout import CODES, COLUMNS, NUMBERS, smallest_type
from raydc.spec.label_text import text_of
from raydc.spec.sections import Data

_NO_ORDERS = Orders()
# Up to this many classes need no confirmation, even if most of them have a single row.
_MIN_DOUBTFUL_CLASSES = 100


def fit_features(
    total: RowStatistics,
    cleaner: Cleaner,
    layout: Layout,
    ignored: Sequence[str],
    orders: Orders = _NO_ORDERS,
) -> Features:
    """Fits the features of a data set.

    Args:
        total: Merged statistics of all blocks.
        cleaner: Holds the kind of each column and the section `data` of the spec.
        layout: Files of the source, from which messages take the place of a row.
        ignored: Columns that a raw row may have and that are not inputs.
        orders: What the ranks of numbers say, for the columns that need it.

    Raises:
        DataError: A column has no value in the training rows, or the labels are not valid classes.
    """
    data = cleaner.data
    classes: tuple[str, ...] = ()
    target_mean, target_scale = 0.0, 1.0
    target = total.inputs.get(data.target)
    num_training_rows = total.num_rows[SPLITS.index("train")]
    if isinstance(target, NumberSums):
        target_mean, target_scale = target.mean_and_deviation()
    else:
        classes = _find_classes(total.labels, data, layout)
    inputs: dict[str, Column] = dict(window_fit.fit(total.inputs, data))
    inputs |= {name: _fit_column(name, total, cleaner, orders, classes) for name in cleaner.kinds}
    signature = _make_signature(inputs, total, cleaner, classes)
    if data.windows is not None:
        signature = replace(signature, num_values=data.windows.horizon)
    return Features(
        signature,
        data.target,
        inputs,
        target_mean,
        target_scale,
        tuple(ignored),
        # Other formats have real nulls, so no text means "missing".
        tuple(data.clean.missing_values) if layout.format == "csv" else (),
        tuple(
            name
            for name in inputs
            if name in cleaner.kinds and _is_always_given(total.inputs[name], num_training_rows)
        ),
    )


def _is_always_given(statistics: ColumnStatistics, num_training_rows: int) -> bool:
    if isinstance(statistics, CategoryCounts):
        return statistics.num_missing == 0
    if isinstance(statistics, WordCounts | ListSums):
        return statistics.num_absent == 0
    # An image cannot be filled in, so a row without one is refused anyway.
    return isinstance(statistics, NumberSums) and statistics.num_values == num_training_rows


def _fit_column(
    name: str,
    total: RowStatistics,
    cleaner: Cleaner,
    orders: Orders,
    classes: tuple[str, ...],
) -> Column:
    statistics = total.inputs[name]
    if isinstance(statistics, PixelHistogram):
        return Image(statistics.height, statistics.width, statistics.channels, as_shown=True)
    if not _num_values(statistics):
        message = f"column {name!r} has no value in any training row"
        raise DataError(message, f"Leave it out: {to_exclude([name], cleaner.data)}")
    if isinstance(statistics, WordCounts):
        return _fit_text(name, statistics, cleaner.data)
    if isinstance(statistics, ListSums):
        return fit_lists(name, statistics, cleaner.data.features)
    if isinstance(statistics, CategoryCounts):
        data = cleaner.data
        if data.features.encodings.get(name) == "target":
            return fit_target_means(name, statistics, data, classes)
        return fit_categories(name, statistics, data)
    has_missing = not _is_always_given(statistics, total.num_rows[SPLITS.index("train")])
    return fit_numbers(name, statistics, cleaner, orders, has_missing)


def _num_values(statistics: NumberSums | CategoryCounts | WordCounts | ListSums) -> int:
    if isinstance(statistics, CategoryCounts):
        return len(statistics.counts)
    if isinstance(statistics, WordCounts):
        return statistics.num_texts
    return len(statistics.sums) if isinstance(statistics, ListSums) else statistics.num_values


def _fit_text(name: str, statistics: WordCounts, data: Data) -> Text:
    options = data.features.text
    if options.tokenizer is not None:
        column = check_tokenizer(options)
        if options.pair is not None and name in options.pair:
            first, second = options.pair
            is_first = name == first
            return replace(column, second=second) if is_first else replace(column, first=first)
        return column
    return text_column.learn(
        statistics.by_bytes, options.vocabulary, options.max_tokens, options.normalisation
    )


def _make_signature(
    inputs: dict[str, Column], total: RowStatistics, cleaner: Cleaner, classes: tuple[str, ...]
) -> Signature:
    task, layout = cleaner.data.task, layout_of(inputs)
    fields: dict[str, Field] = {}
    for name, column in inputs.items():
        statistics = total.inputs.get(name)
        if isinstance(column, Image) and isinstance(statistics, PixelHistogram):
            mean, scale = _pixel_scale(statistics, cleaner.data.features.scale)
            fields[name] = Field("array", "uint8", column.shape, mean=mean, scale=scale)
        elif isinstance(column, CategoryCodes):
            num_codes = column.num_codes
            fields[name] = Field("array", smallest_type(num_codes), num_codes=num_codes)
        elif isinstance(column, Text) and column.first is not None:
            continue
        elif isinstance(column, Text | NumberList | SeriesWindow):
            fields[name] = column.field
    _refuse_reserved(fields)
    if not fields:
        return Signature("vector", (layout.num_inputs,), "float32", (), (), task, classes)
    if layout.num_inputs:
        table = {name: one.num_inputs for name, one in table_columns(inputs).items()}
        names, widths = tuple(table), tuple(table.values())
        joined = Field("array", "float32", (layout.num_inputs,), columns=names, widths=widths)
        fields = {COLUMNS: joined, **fields}
    first = next(iter(fields.values()))
    # Rows that are only an image are one array and not a record, as in older data sets.
    if len(fields) == 1 and first.mean:
        return Signature("image", first.shape, "uint8", first.mean, first.scale, task, classes)
    return Signature("record", (), "", (), (), task, classes, fields)


def _refuse_reserved(fields: dict[str, Field]) -> None:
    """Refuses columns whose field would replace another one among the inputs of a network."""
    lengths = [name + LENGTH for name, field in fields.items() if field.form == "list"]
    for name in fields:
        if name in (COLUMNS, NUMBERS, CODES, *lengths):
            raise DataError(
                f"the column {name!r} has a name that raydc gives an input of its own", "Rename it."
            )


def _pixel_scale(
    statistics: PixelHistogram, scale: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and divisor of each channel, in units of pixels."""
    channels = statistics.channels
    if scale in ("min_max", "none"):
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
    given = data.label_columns or data.classes
    if data.task == "multilabel":
        _check_labels(training, num_rows, data)
    elif len(training) < 2:
        only = ", ".join(repr(label) for label in training)
        raise DataError(
            f"target {data.target!r}: all training rows have the same label, {only}",
            "A classification needs at least two classes.",
        )
    if given is None and len(training) > max(_MIN_DOUBTFUL_CLASSES, num_rows // 2):
        message = (
            f"target {data.target!r} has {len(training):,} distinct labels in {num_rows:,} rows"
        )
        raise DataError(message, "Is this task: regression? Otherwise list them: data.classes.")
    classes = tuple(given or _sort_labels(training))
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


def _check_labels(training: dict[str, LabelCount], num_labels: int, data: Data) -> None:
    """Refuses a target of which training rows have no label, or all together only one."""
    if not num_labels:
        raise DataError(
            f"target {data.target!r}: no training row has a label",
            "Is data.target, or are data.label_columns the right ones?",
        )
    if len(training) < 2 and not (data.label_columns or data.classes):
        raise DataError(
            f"target {data.target!r}: the only label of all training rows is "
            f"{shown(next(iter(training)))}",
            f"A row's labels are told apart by data.label_delimiter: {data.label_delimiter!r}. If "
            "there is only one label, this is task: classification.",
        )


def _sort_labels(labels: Iterable[str]) -> list[str]:
    """Sorts by number if all labels are numbers ("2" before "10"), else by text."""
    names = sorted(labels)
    try:
        return sorted(names, key=float)
    except ValueError:
        return names
