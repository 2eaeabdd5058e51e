"""A column in a few words, for the terminal and for pages. Pure."""

from __future__ import annotations

from raydc.data.column_profile import MAX_DISTINCT, ColumnProfile
from raydc.report.axes import number_text

# A longer value would push the next column off the screen.
_MAX_CHARS = 24
_NUM_VALUES = 3


def distinct_text(whole: ColumnProfile) -> str:
    """Number of distinct values, as far as they were counted; empty for images."""
    if whole.numbers is not None:
        few = whole.numbers.distinct
        return f"more than {MAX_DISTINCT:,}" if few is None else f"{len(few):,}"
    return f"{len(whole.categories):,}" if whole.categories else ""


def summary_text(whole: ColumnProfile) -> str:
    """The values of a column in a few words: quartiles and ends, or the most frequent."""
    if whole.numbers is not None:
        middle = whole.numbers.quantiles((0.25, 0.5, 0.75))
        ends = (whole.numbers.sums.low, *middle, whole.numbers.sums.high)
        return " · ".join(number_text(one) for one in ends)
    ranked = sorted(whole.categories.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name[:_MAX_CHARS]} {count:,}" for name, count in ranked[:_NUM_VALUES]]
    return " · ".join([*shown, "…"] if len(ranked) > _NUM_VALUES else shown)
