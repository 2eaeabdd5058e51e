"""Fits columns of numbers and dates from statistics of their training rows. Runs in the driver."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from raydc.data.clean import Cleaner
from raydc.data.column_sums import NumberSums
from raydc.data.rank_search import Orders
from raydc.errors import DataError
from raydc.features import DateParts, Numeric, TableColumn
from raydc.spec.feature_options import DATE_PARTS


def fit_numbers(
    name: str, statistics: NumberSums, cleaner: Cleaner, orders: Orders, has_missing: bool
) -> TableColumn:
    """Fits a column of numbers, or of dates as seconds.

    Args:
        name: Name of the column, for its options.
        statistics: Sums and extremes of its numbers in training rows.
        cleaner: Holds the section `data` of the spec.
        orders: Medians, quantiles and limits of the columns that need them.
        has_missing: Whether training rows lack a value.
    """
    features, own = cleaner.data.features, cleaner.data.clean.of(name)
    low, high = orders.limits.get(name, (None, None))
    # A mark that was never 1 in training would have an untrained weight.
    is_marked = bool(own.indicator) and has_missing
    mean, deviation = statistics.mean_and_deviation()
    fill = orders.fills.get(name, mean) if own.constant is None else float(own.constant)
    if features.columns.get(name) == "date":
        parts = tuple(features.date_parts.get(name, DATE_PARTS))
        replaced = None if own.missing in ("impute", "drop", "error") else fill
        return DateParts(parts, mean, deviation, replaced, low, high, is_marked)
    numeric = _scale_numbers(name, statistics, cleaner, orders)
    return replace(numeric, mean=fill, low=low, high=high, marks_missing=is_marked)


def _scale_numbers(name: str, statistics: NumberSums, cleaner: Cleaner, orders: Orders) -> Numeric:
    mean, deviation = statistics.mean_and_deviation()
    if name in orders.spreads:
        middle, spread = orders.spreads[name]
        # The spread is 0 if half of the rows have the same value.
        return Numeric(mean, middle, spread or deviation)
    scale = cleaner.data.features.scale_of(name)
    if scale == "none":
        return Numeric(mean, 0.0, 1.0)
    if scale == "min_max":
        # A constant column has no range to divide by.
        span = checked_span(name, statistics.high - statistics.low)
        return Numeric(mean, statistics.low, span or 1.0)
    if scale == "quantile":
        return Numeric(mean, 0.0, 1.0, quantiles=orders.quantiles[name])
    if scale == "log":
        shift, divisor = statistics.log_mean_and_deviation()
        return Numeric(mean, shift, divisor, is_log=True)
    return Numeric(mean, mean, deviation)


def checked_span(name: str, span: float | Fraction) -> float:
    """The distance of two numbers of a column, by which it is divided.

    Raises:
        DataError: It is beyond the range of floats.
    """
    try:
        found = float(span)
    except OverflowError:
        found = math.inf
    if math.isinf(found):
        raise DataError(
            f"column {name!r}: its numbers are further apart than the range of 64-bit floats, "
            "about 1.8e308",
            "Divide the column in the source, or leave it out: data.features.exclude.",
        )
    return found
