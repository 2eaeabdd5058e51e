"""Fits a column of lists of numbers from statistics of its training rows. Runs in the driver."""

from __future__ import annotations

from raydc.data.column_sums import ListSums, NumberSums
from raydc.features import NumberList
from raydc.features.record import bucket_length
from raydc.spec.feature_options import FeatureOptions, Scale


def fit_lists(name: str, statistics: ListSums, options: FeatureOptions) -> NumberList:
    """Fits a column.

    Args:
        name: Name of the column, for its scaling.
        statistics: Statistics of the column; at least one list has an item.
        options: Section `data.features`.
    """
    scaling = [_scaling(sums, options.scale_of(name)) for sums in statistics.sums]
    # Up to this length padding comes for nothing.
    longest = min(options.max_items, bucket_length(statistics.longest))
    return NumberList(
        tuple(sums.mean_and_deviation()[0] for sums in statistics.sums),
        tuple(shift for shift, _ in scaling),
        tuple(scale for _, scale in scaling),
        0 if statistics.is_array else longest,
        statistics.has_width,
    )


def _scaling(sums: NumberSums, scale: Scale) -> tuple[float, float]:
    """Shift and divisor of a number of each item."""
    if scale == "none":
        return 0.0, 1.0
    if scale == "min_max":
        # Numbers that are all equal have no range to divide by.
        return sums.low, (sums.high - sums.low) or 1.0
    return sums.mean_and_deviation()
