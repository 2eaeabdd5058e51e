"""Fits columns of categories with the encoding `target`. Runs in the driver.

The means are exact fractions of exact sums, rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from raydc.data.column_statistics import RowStatistics
from raydc.data.column_sums import CategoryCounts
from raydc.data.fit_categories import fill_of, rank_categories
from raydc.data.moments import SHIFT, square_root
from raydc.data.target_sums import ROWS, SQUARES, TOTAL, Sums, add_sums
from raydc.features import Features, TargetMean
from raydc.features.encoded_categories import NUM_FOLDS
from raydc.spec.label_text import text_of
from raydc.spec.sections import Data


def fit_target_means(
    name: str,
    statistics: CategoryCounts,
    data: Data,
    classes: Sequence[str],
    folds: Iterable[int] = range(NUM_FOLDS),
) -> TargetMean:
    """Fits a column from the training rows of some folds.

    Args:
        name: Name of the column, for its options.
        statistics: Counts of its categories, and sums of their targets.
        data: Section `data` of the spec.
        classes: Classes of a classification; empty for a regression.
        folds: Folds whose targets count. Which categories have numbers of their own does not depend
            on targets, so it is the same for all folds.
    """
    used = tuple(folds)
    sums = statistics.targets
    ranked = rank_categories(statistics)
    own = ranked[: data.features.max_categories]
    fill = fill_of(statistics, data.clean.of(name))
    judge = _Judge(tuple(classes), Fraction(data.features.target_smoothing))

    def pooled(categories: Sequence[str]) -> Sums:
        parts = [sums.by_category[fold].get(one, {}) for one in categories for fold in used]
        # A missing value becomes this category, so its target counts there.
        if fill in categories:
            parts += [sums.missing[fold] for fold in used]
        return add_sums(parts)

    by_category = {category: pooled([category]) for category in own}
    other = pooled(ranked[len(own) :])
    missing = add_sums([sums.missing[fold] for fold in used]) if fill is None else {}
    prior = judge.prior(add_sums([*by_category.values(), other, missing]))
    numbers = {category: judge.mean(part, prior) for category, part in by_category.items()}
    others = judge.mean(other, prior)
    filled = numbers.get(fill, others) if fill is not None else judge.mean(missing, prior)
    return TargetMean(
        tuple(own),
        tuple(numbers.values()),
        others,
        filled,
        tuple(float(mean) for mean in prior.means),
        prior.deviations,
    )


def fit_out_of_fold(
    total: RowStatistics, features: Features, data: Data
) -> dict[str, tuple[TargetMean, ...]]:
    """Fits the columns that replace target means for training rows.

    Args:
        total: Merged statistics of all blocks.
        features: Features of the data set.
        data: Section `data` of the spec.

    Returns:
        For each column with target means, and each fold, a column fitted without the rows of the
        fold.
    """
    found: dict[str, tuple[TargetMean, ...]] = {}
    for name, column in features.columns.items():
        statistics = total.inputs.get(name)
        if isinstance(column, TargetMean) and isinstance(statistics, CategoryCounts):
            classes = features.signature.classes
            others = [[one for one in range(NUM_FOLDS) if one != fold] for fold in range(NUM_FOLDS)]
            found[name] = tuple(
                fit_target_means(name, statistics, data, classes, folds) for folds in others
            )
    return found


@dataclass(frozen=True)
class _Prior:
    """Mean target of some rows, and its standard deviation, for each output."""

    means: tuple[Fraction, ...]
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class _Judge:
    """Means of targets: one for a regression or two classes (the second), else one for each class.

    Attributes:
        classes: Classes; empty for a regression.
        smoothing: Number of rows with the overall mean that are added to each category.
    """

    classes: tuple[str, ...]
    smoothing: Fraction

    @property
    def _labels(self) -> tuple[str, ...]:
        chosen = self.classes[1:] if len(self.classes) == 2 else self.classes
        return tuple(text_of(name) for name in chosen)

    def _totals(self, sums: Mapping[str, int]) -> tuple[int, tuple[Fraction, ...]]:
        if not self.classes:
            return sums.get(ROWS, 0), (Fraction(sums.get(TOTAL, 0), 1 << SHIFT),)
        totals = tuple(Fraction(sums.get(label, 0)) for label in self._labels)
        return sum(sums.values()), totals

    def prior(self, sums: Mapping[str, int]) -> _Prior:
        """Mean and deviation over all rows; without rows, 0 and 1."""
        num_rows, totals = self._totals(sums)
        if not num_rows:
            return _Prior((Fraction(0),) * len(totals), (1.0,) * len(totals))
        means = tuple(total / num_rows for total in totals)
        if self.classes:
            # A mark is 0 or 1, and so is its square.
            squares = means
        else:
            squares = (Fraction(sums[SQUARES], num_rows << 2 * SHIFT),)
        return _Prior(
            means,
            tuple(
                square_root(square - mean * mean) or 1.0
                for square, mean in zip(squares, means, strict=True)
            ),
        )

    def mean(self, sums: Mapping[str, int], prior: _Prior) -> tuple[float, ...]:
        """Smoothed means of the rows of a category; those of all rows if it has none."""
        num_rows, totals = self._totals(sums)
        weight = num_rows + self.smoothing
        if not weight:
            return tuple(float(mean) for mean in prior.means)
        return tuple(
            float((total + self.smoothing * mean) / weight)
            for total, mean in zip(totals, prior.means, strict=True)
        )
