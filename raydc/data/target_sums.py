"""Targets of the training rows of each category, by fold: exact sums that blocks add up. Pure.

Used in tasks of Ray Data; merged in the driver. From them `raydc.data.fit_target_means` makes the
numbers of a column with the encoding `target`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydc.data import values
from raydc.data.moments import exact_moments
from raydc.features.encoded_categories import NUM_FOLDS, folds_of
from raydc.order import Ids

ROWS, TOTAL, SQUARES = "rows", "total", "squares"
# For a classification, rows by label; for a regression, the three keys above, where `total` and
# `squares` are multiplied by powers of two as in `raydc.data.moments`.
Sums = dict[str, int]


@dataclass(frozen=True)
class TargetSums:
    """Sums of the targets of one column of categories.

    Attributes:
        by_category: For each fold the sums of each category, by its text.
        missing: For each fold the sums of the rows without a value.
    """

    by_category: tuple[dict[str, Sums], ...] = ({},) * NUM_FOLDS
    missing: tuple[Sums, ...] = ({},) * NUM_FOLDS

    def plus(self, other: TargetSums) -> TargetSums:
        """Adds the sums of other rows."""
        pairs = zip(self.by_category, other.by_category, strict=True)
        return TargetSums(
            tuple(
                {
                    name: add_sums([a.get(name, {}), b.get(name, {})])
                    for name in dict.fromkeys((*a, *b))
                }
                for a, b in pairs
            ),
            tuple(add_sums(both) for both in zip(self.missing, other.missing, strict=True)),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TargetSums:
        """The inverse of `dataclasses.asdict`."""
        return cls(tuple(value["by_category"]), tuple(value["missing"]))


NO_TARGETS = TargetSums()


def add_sums(parts: Sequence[Mapping[str, int]]) -> Sums:
    """Adds sums key by key."""
    total: Counter[str] = Counter()
    for part in parts:
        # Not with `+`, which drops totals below zero.
        total.update(part)
    return dict(total)


def measure_targets(
    texts: Sequence[str | None], target: pa.Array, ids: Ids, is_regression: bool
) -> TargetSums:
    """Sums the targets of training rows by category and fold.

    Args:
        texts: Category of each row; None for a missing one.
        target: Raw targets, in the order of the rows.
        ids: Row ids, which decide the folds.
        is_regression: Whether targets are numbers rather than labels.
    """
    folds = folds_of(ids).tolist()
    groups = [(fold, text) for fold, text in zip(folds, texts, strict=True)]
    sums: dict[tuple[int, str | None], Sums] = {}
    if is_regression:
        numbers = values.parse_numbers(target).values
        rows: dict[tuple[int, str | None], list[int]] = {}
        for row, group in enumerate(groups):
            rows.setdefault(group, []).append(row)
        for group, found in rows.items():
            total, squares = exact_moments(numbers[np.array(found)])
            sums[group] = {ROWS: len(found), TOTAL: total, SQUARES: squares}
    else:
        labels = values.to_texts(target)
        counts = Counter(zip(groups, labels, strict=True))
        for (group, label), count in counts.items():
            sums.setdefault(group, {})[str(label)] = count
    by_category: tuple[dict[str, Sums], ...] = tuple({} for _ in range(NUM_FOLDS))
    missing: list[Sums] = [{} for _ in range(NUM_FOLDS)]
    for (fold, text), found_sums in sums.items():
        if text is None:
            missing[fold] = found_sums
        else:
            by_category[fold][text] = found_sums
    return TargetSums(by_category, tuple(missing))
