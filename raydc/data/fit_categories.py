"""Fits columns of categories from the counts of their training rows. Runs in the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction

from raydc.data.column_sums import CategoryCounts
from raydc.data.moments import square_root
from raydc.errors import DataError, did_you_mean
from raydc.features import Categorical, CategoryCodes, HashedCategory, OrdinalCategory, TableColumn
from raydc.features.category_columns import bucket_of
from raydc.spec.label_text import text_of
from raydc.spec.sections import ColumnCleaning, Data


def rank_categories(statistics: CategoryCounts) -> list[str]:
    """Categories of the training rows, the most frequent one first.

    Names break ties, so that the order does not depend on which block came first.
    """
    ranked = sorted(statistics.counts.items(), key=lambda item: (-item[1], item[0]))
    return [category for category, _ in ranked]


def fill_of(statistics: CategoryCounts, cleaning: ColumnCleaning) -> str | None:
    """Category that a missing value counts as; None if there is none."""
    if cleaning.missing == "most_frequent":
        return rank_categories(statistics)[0]
    # A constant that no row has gets no input of its own; that of missing values stands for it.
    is_known = cleaning.missing == "constant" and cleaning.constant in statistics.counts
    return cleaning.constant if is_known else None


def fit_categories(name: str, statistics: CategoryCounts, data: Data) -> TableColumn:
    """Fits a column with any encoding but `target`.

    Args:
        name: Name of the column, for its options and for messages.
        statistics: Rows of each category among the training rows.
        data: Section `data` of the spec.

    Raises:
        DataError: A training row has a category that the order of the column leaves out.
    """
    encoding = data.features.encodings.get(name)
    if encoding == "ordinal":
        return _fit_order(name, statistics, data)
    ranked = rank_categories(statistics)
    own = tuple(ranked[: data.features.max_categories])
    fill = fill_of(statistics, data.clean.of(name))
    has_missing = statistics.num_missing > 0 and fill is None
    if encoding == "hashing":
        num_buckets = data.features.hash_buckets
        used = tuple(sorted({bucket_of(category, num_buckets) for category in ranked}))
        # The most frequent categories are kept as examples.
        return HashedCategory(own, False, has_missing, fill, num_buckets, used)
    column = Categorical(own, len(ranked) > len(own), has_missing, fill)
    return CategoryCodes(**asdict(column)) if encoding == "embedding" else column


def _fit_order(name: str, statistics: CategoryCounts, data: Data) -> OrdinalCategory:
    ranked = rank_categories(statistics)
    given = data.features.orders.get(name)
    if given is None:
        order = _sorted_by_value(ranked[: data.features.max_categories])
    else:
        order = given
        known = {text_of(category) for category in given}
        if unknown := [category for category in ranked if category not in known]:
            raise DataError(
                f"data.features.orders: {name!r} leaves out the category {unknown[0]!r} of "
                f"{statistics.counts[unknown[0]]:,} training rows",
                did_you_mean(unknown[0], given, starts_sentence=True) or "Add it to the order.",
            )
    by_text = {text_of(category): place for place, category in enumerate(order)}
    counts = {by_text[one]: n for one, n in statistics.counts.items() if one in by_text}
    fill = fill_of(statistics, data.clean.of(name))
    if fill is not None and fill in by_text:
        counts[by_text[fill]] += statistics.num_missing
    mean, deviation = _moments(counts)
    shift, scale = {
        "none": (0.0, 1.0),
        "min_max": (0.0, float(max(1, len(order) - 1))),
    }.get(data.features.scale, (mean, deviation))
    filled = mean if fill is None else float(by_text.get(fill, mean))
    return OrdinalCategory(
        tuple(order),
        tuple((float(place),) for place in range(len(order))),
        (mean,),
        (filled,),
        (shift,),
        (scale,),
        marks_missing=statistics.num_missing > 0 and fill is None,
    )


def _sorted_by_value(categories: Sequence[str]) -> list[str]:
    """Sorts by number if all categories are numbers ("2" before "10"), else by bytes."""
    # By code points, which is the order of the bytes of UTF-8.
    names = sorted(categories)
    try:
        return sorted(names, key=float)
    except ValueError:
        return names


def _moments(counts: Mapping[int, int]) -> tuple[float, float]:
    """Mean and standard deviation of places by their number of rows, exact and rounded once."""
    num_rows = sum(counts.values())
    mean = Fraction(sum(place * count for place, count in counts.items()), num_rows)
    square = Fraction(sum(place * place * count for place, count in counts.items()), num_rows)
    return float(mean), square_root(square - mean * mean) or 1.0
