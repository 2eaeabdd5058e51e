"""Exact statistics of columns of lists, from which they are scaled. Runs in tasks of Ray Data."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raydc.data import list_values
from raydc.data.column_sums import ListSums, sums_of


def measure_lists(column: pa.Array, max_items: int) -> ListSums:
    """Measures the lists of some rows.

    Args:
        column: Raw cells, of training rows only.
        max_items: Items of a list that are kept.
    """
    if not list_values.is_list(column.type):
        # A block of JSON Lines whose rows all lack the list has a column of text for it.
        return ListSums((), 0, 0, len(column), 0, False, False)
    is_array = pa.types.is_fixed_size_list(column.type)
    lists = [numbers for numbers in list_values.to_arrays(column) if numbers is not None]
    lengths = [len(numbers) for numbers in lists]
    kept = [numbers[None] if is_array else numbers[:max_items] for numbers in lists]
    has_items = any(len(numbers) for numbers in kept)
    items = np.concatenate(kept).reshape(sum(map(len, kept)), -1) if has_items else None
    return ListSums(
        () if items is None else tuple(sums_of(part) for part in np.ascontiguousarray(items.T)),
        0 if is_array else min(max_items, max(lengths, default=0)),
        len(lists),
        len(column) - len(lists),
        0 if is_array else sum(length > max_items for length in lengths),
        is_array,
        not is_array and items is not None and lists[0].ndim == 2,
    )
