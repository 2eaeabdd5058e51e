"""Finds the facts about all rows that the split of a spec needs. Runs in the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from raydc.data import block_tasks, rank_stage, tasks
from raydc.data.clean import Cleaner
from raydc.data.layout import Layout
from raydc.data.row_faults import Refused
from raydc.data.series import SplitKeys
from raydc.data.split_rules import SplitBounds
from raydc.errors import DataError, shown


def find_split(blocks: Sequence[tasks.BlockRef], cleaner: Cleaner, layout: Layout) -> Cleaner:
    """Gives a cleaner the bounds of its split.

    Args:
        blocks: References to the raw rows, one for each block.
        cleaner: Decides which rows are dropped; without bounds.
        layout: Files of the source, from which messages take the place of a row.

    Raises:
        DataError: A row cannot be split, such as one without a group.
    """
    split = cleaner.data.split
    if split.by in ("group", "time", "column") and cleaner.data.clean.on_error == "fail":
        finder = replace(cleaner.finder, only_split=True)
        calls = [partial(block_tasks.list_faults, block, finder) for block in blocks]
        for fault in Refused.merge(tasks.run_calls(calls, "CheckSplit")).listed[:1]:
            place, value = layout.describe_row(fault.row_id), shown(fault.value)
            raise DataError(
                f"{place}: {fault.column}: {value} {fault.reason}",
                "data.clean.on_error: drop leaves such rows out.",
            )
    bounds = SplitBounds()
    if split.by == "column":
        shared = tasks.share(cleaner)
        found = tasks.run_calls(
            [partial(block_tasks.find_named_splits, block, shared) for block in blocks],
            "FindSplits",
        )
        bounds = SplitBounds(named=frozenset(code for codes in found for code in codes if code > 0))
    if split.by in ("stratified", "time"):
        rule = cleaner.rule
        series = SplitKeys(cleaner)
        shared = tasks.share(series)
        counts = tasks.run_calls(
            [partial(block_tasks.count_keys, block, shared) for block in blocks], "CountSplits"
        )
        sizes: dict[str, int] = {}
        for part in counts:
            for name, count in part.items():
                sizes[name] = sizes.get(name, 0) + count
        found_keys = rank_stage.search(
            blocks, series, dict.fromkeys(sizes, rule.ranks), "FindSplits"
        )
        bounds = SplitBounds(
            {name: rule.bounds_of(sizes[name], keys) for name, keys in found_keys.items() if keys}
        )
    return replace(cleaner, bounds=bounds)
