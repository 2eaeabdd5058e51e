"""Limits of outliers, medians, quartiles and most frequent numbers of columns. Runs in the driver.

All are of training rows, and exact: see `raydc.data.rank_search`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

from raydc.data import block_tasks, rank_search, tasks
from raydc.data.clean import Cleaner, Limits
from raydc.data.column_statistics import RowStatistics, merge_statistics
from raydc.data.column_sums import NumberSums
from raydc.data.fit_numbers import checked_span
from raydc.data.rank_search import Counts, Orders, Ranks
from raydc.data.series import KeySeries, TrainingNumbers
from raydc.spec.cleaning import DEFAULT_OUTLIER_QUANTILE

# Maximum distinct numbers that one task counts; they become Python integers, which take memory.
_ROWS_PER_MODE_TASK = 4_000_000
# A block returns no more counts than it has rows: if these are few, so are the counts.
_FEW_ROWS = 1_000_000
# As many as scikit-learn has; a rank between two of them lies in proportion.
MAX_QUANTILES = 1000
_QUARTERS = tuple(Fraction(part, 4) for part in (1, 2, 3))


def search(
    blocks: Sequence[tasks.BlockRef],
    series: KeySeries,
    wanted: dict[str, Ranks],
    name: str,
    bits: int = rank_search.FEW_RANKS,
) -> dict[str, list[int]]:
    """Finds keys by their rank over all blocks.

    Args:
        blocks: References to the raw rows, one for each block.
        series: Computes the keys of a block.
        wanted: For each series, the ranks as a function of the number of its keys.
        name: Name of the tasks, for logs and the dashboard of Ray.
        bits: Bits of a digit; see `rank_search.FEW_RANKS`.
    """
    shared = tasks.share(series)

    def count(heads: dict[str, list[int]], level: int) -> Counts:
        calls = [
            partial(block_tasks.count_digits, block, shared, heads, level, bits) for block in blocks
        ]
        return rank_search.merge_counts(tasks.run_calls(calls, name))

    return rank_search.find_ranks(wanted, count, bits)


def find_limits(blocks: Sequence[tasks.BlockRef], cleaner: Cleaner) -> Cleaner:
    """Gives a cleaner the limits of the columns whose outliers are clipped or dropped.

    Args:
        blocks: References to the raw rows, one for each block.
        cleaner: Decides which rows are for training; without limits.
    """
    limited = {
        name: cleaner.data.clean.of(name)
        for name, kind in cleaner.kinds.items()
        if kind == "numeric" and cleaner.data.clean.of(name).outliers in ("clip", "drop")
    }
    limits: dict[str, Limits] = {}
    if any(own.outlier_deviations is not None for own in limited.values()):
        shared = tasks.share(cleaner)
        parts = tasks.run_calls(
            [partial(block_tasks.measure, block, shared) for block in blocks], "FindLimits"
        )
        total = merge_statistics([RowStatistics.from_json(part) for part in parts])
        for name, own in limited.items():
            sums = total.inputs[name]
            if own.outlier_deviations is None or not isinstance(sums, NumberSums):
                continue
            if sums.num_values:
                mean, deviation = sums.mean_and_deviation()
                reach = own.outlier_deviations * deviation
                # No number is beyond these, and JSON has no infinity.
                most = sys.float_info.max
                limits[name] = (max(mean - reach, -most), min(mean + reach, most))
    wanted: dict[str, Ranks] = {
        name: partial(_outer_ranks, own.outlier_quantile or DEFAULT_OUTLIER_QUANTILE)
        for name, own in limited.items()
        if own.outlier_deviations is None
    }
    if wanted:
        series = TrainingNumbers(cleaner, tuple(wanted))
        for name, keys in search(blocks, series, wanted, "FindLimits").items():
            if keys:
                low, high = map(rank_search.number_of, keys)
                limits[name] = (low, high)
    return replace(cleaner, limits=limits)


def _outer_ranks(quantile: float, num_keys: int) -> list[int]:
    outside = int(quantile * (num_keys - 1))
    return [outside, num_keys - 1 - outside]


def find_orders(blocks: Sequence[tasks.BlockRef], cleaner: Cleaner, num_rows: int) -> Orders:
    """Finds what features need to know of ranks and of most frequent numbers.

    Args:
        blocks: References to the raw rows.
        cleaner: Knows the training rows, and the limits of outliers.
        num_rows: Rows of all blocks, which bound what one task counts.
    """
    of = {
        name: cleaner.data.clean.of(name)
        for name, kind in cleaner.kinds.items()
        if kind == "numeric"
    }
    features = cleaner.data.features
    numbers = [name for name in of if features.columns.get(name) != "date"]
    medians = [name for name, own in of.items() if own.missing == "median"]
    robust = [
        name
        for name in numbers
        if of[name].outliers == "robust" or features.scale_of(name) == "robust"
    ]
    modes = [name for name, own in of.items() if own.missing == "most_frequent"]
    fills: dict[str, float] = {}
    spreads: dict[str, tuple[float, float]] = {}
    ranked = tuple(dict.fromkeys((*medians, *robust)))
    if ranked:
        series = TrainingNumbers(cleaner, ranked)
        wanted: dict[str, Ranks] = dict.fromkeys(ranked, _quartile_ranks)
        sizes = _Sizes(wanted)
        for name, keys in search(blocks, series, sizes.wanted, "FindMedians").items():
            if not keys:
                continue
            first, middle, last = _between(sizes.of[name], _QUARTERS, keys)
            if name in medians:
                fills[name] = float(middle)
            if name in robust:
                spreads[name] = (float(middle), checked_span(name, last - first))
    for name, key in _most_frequent(blocks, cleaner, modes, num_rows).items():
        fills[name] = rank_search.number_of(key)
    ranks = [name for name in numbers if features.scale_of(name) == "quantile"]
    bits = rank_search.FEW_RANKS if num_rows <= _FEW_ROWS else rank_search.MANY_RANKS
    return Orders(fills, spreads, cleaner.clips, _find_quantiles(blocks, cleaner, ranks, bits))


def _find_quantiles(
    blocks: Sequence[tasks.BlockRef], cleaner: Cleaner, names: Sequence[str], bits: int
) -> dict[str, tuple[float, ...]]:
    if not names:
        return {}
    sizes = _Sizes(dict.fromkeys(names, _quantile_ranks))
    series = TrainingNumbers(cleaner, tuple(names))
    found = search(blocks, series, sizes.wanted, "FindQuantiles", bits)
    quantiles: dict[str, tuple[float, ...]] = {}
    for name, keys in found.items():
        if keys:
            last = min(MAX_QUANTILES, sizes.of[name]) - 1
            parts = [Fraction(part, max(1, last)) for part in range(last + 1)]
            quantiles[name] = tuple(map(float, _between(sizes.of[name], parts, keys)))
    return quantiles


def _quantile_ranks(num_keys: int) -> list[int]:
    last = min(MAX_QUANTILES, num_keys) - 1
    return _ranks_around(num_keys, [Fraction(part, max(1, last)) for part in range(last + 1)])


class _Sizes:
    """Remembers the number of keys of each series, which the search tells the ranks."""

    def __init__(self, wanted: dict[str, Ranks]) -> None:
        self.of: dict[str, int] = {}
        self.wanted: dict[str, Ranks] = {
            name: partial(self._remember, name, ranks) for name, ranks in wanted.items()
        }

    def _remember(self, name: str, ranks: Ranks, num_keys: int) -> Sequence[int]:
        self.of[name] = num_keys
        return ranks(num_keys)


def _quartile_ranks(num_keys: int) -> list[int]:
    return _ranks_around(num_keys, _QUARTERS)


def _ranks_around(num_keys: int, parts: Sequence[Fraction]) -> list[int]:
    """The two ranks around each part of all keys, which may be one."""
    places = [(num_keys - 1) * part for part in parts]
    return [rank for place in places for rank in (math.floor(place), math.ceil(place))]


def _between(num_keys: int, parts: Sequence[Fraction], keys: Sequence[int]) -> list[Fraction]:
    """Quantiles, exact: between two numbers of the data they lie in proportion."""
    found = []
    for part, (below, above) in zip(parts, zip(keys[::2], keys[1::2], strict=True), strict=True):
        low, high = (Fraction(rank_search.number_of(key)) for key in (below, above))
        place = (num_keys - 1) * part
        found.append(low + (high - low) * (place - math.floor(place)))
    return found


def _most_frequent(
    blocks: Sequence[tasks.BlockRef], cleaner: Cleaner, names: Sequence[str], num_rows: int
) -> dict[str, int]:
    if not names:
        return {}
    shared = tasks.share(TrainingNumbers(cleaner, tuple(names)))
    num_parts = -(-num_rows // _ROWS_PER_MODE_TASK)
    parts: list[dict[str, Any]] = tasks.run_calls(
        [
            partial(block_tasks.find_most_frequent, list(blocks), shared, part, num_parts)
            for part in range(num_parts)
        ],
        "FindMostFrequent",
    )
    found = {
        name: rank_search.merge_most_frequent(part.get(name) for part in parts) for name in names
    }
    return {name: key for name, key in found.items() if key is not None}
