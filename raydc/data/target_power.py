"""How well each column alone predicts the target, and how splits differ: for `raydc inspect`.

A column is cut into bins, whose rows are counted by class, or whose targets are summed without
rounding. Bins learn from training rows and are scored on the others, so that an identifier does not
seem to predict the target. Counted in tasks of Ray Data, merged and scored in the driver.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.data.clean import DROPPED, TRAIN, Cleaner
from raydc.data.column_profile import ColumnProfile, numbers_of
from raydc.data.moments import SHIFT, exact_moments

NUM_BINS = 32
_MAX_CATEGORIES = 256
# All rarer classes count as one, so that the table of a column stays small.
MAX_CLASSES = 20
OTHER = "(other)"
_DRIFT_BINS = 10
# For each bin, of training rows and then of the others: a count by class, or number of rows, sum
# and sum of squares of the target.
Table = list[list[int]]
_Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Binning:
    """How the cells of a column are assigned to bins.

    Attributes:
        kind: `numeric` or `categorical`.
        edges: Ascending limits between the bins of a numeric column.
        categories: Values with a bin of their own; all others share one.
    """

    kind: str
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: str, profile: ColumnProfile) -> Binning:
        """Cuts the training rows of a column into bins of about equal size."""
        if kind == "numeric" and profile.numbers is not None:
            fractions = [index / NUM_BINS for index in range(1, NUM_BINS)]
            return cls(kind, tuple(sorted(set(profile.numbers.quantiles(fractions)))))
        ranked = sorted(profile.categories.items(), key=lambda item: (-item[1], item[0]))
        return cls(kind, categories=tuple(name for name, _ in ranked[:_MAX_CATEGORIES]))

    @property
    def num_bins(self) -> int:
        """Bins of values, one for other values, and one for missing ones."""
        return (len(self.edges) if self.kind == "numeric" else len(self.categories)) + 2

    def places(self, column: pa.Array) -> _Places:
        """Number of the bin of each cell; the last is that of missing ones."""
        missing = self.num_bins - 1
        if self.kind == "numeric":
            parsed = values.parse_numbers(column)
            found = np.searchsorted(np.array(self.edges), parsed.values, side="right")
            return np.where(parsed.missing, missing, found)
        known = {name: index for index, name in enumerate(self.categories)}

        def place_of(text: str | None) -> int:
            return missing if text is None else known.get(text, missing - 1)

        return values.coded_texts(column).map(place_of, np.int64)


def count_block(
    table: pa.Table, cleaner: Cleaner, binnings: Mapping[str, Binning], classes: Sequence[str]
) -> dict[str, Table]:
    """Counts the bins of some rows.

    Args:
        table: Raw rows of a block, with their ids.
        cleaner: Assigns the rows to splits, and holds the name of the target.
        binnings: Bins of each input column, by its name.
        classes: Classes that are counted on their own; empty for a regression.

    Returns:
        For each column a list by bin: for a classification a count for each class and `OTHER`, of
        training rows and then of the others; for a regression number, sum and sum of squares.
    """
    codes = cleaner.assign_splits(table)
    rows, is_training = table.filter(pa.array(codes != DROPPED)), codes[codes != DROPPED] == TRAIN
    target = values.column_of(rows, cleaner.data.target)
    places = {name: one.places(values.column_of(rows, name)) for name, one in binnings.items()}
    if cleaner.data.task == "regression":
        numbers = values.parse_numbers(target).values
        usable = np.isfinite(numbers)
        return {
            name: _sum_bins(
                places[name][usable], one.num_bins, numbers[usable], is_training[usable]
            )
            for name, one in binnings.items()
        }
    known = {name: index for index, name in enumerate(classes)}
    positions = np.array(
        [known.get(str(text), len(known)) for text in values.to_texts(target)], dtype=np.int64
    )
    positions += np.where(is_training, 0, len(known) + 1)
    width = 2 * len(known) + 2
    return {
        name: np.bincount(places[name] * width + positions, minlength=one.num_bins * width)
        .reshape(one.num_bins, width)
        .tolist()
        for name, one in binnings.items()
    }


def _sum_bins(
    places: _Places,
    num_bins: int,
    numbers: npt.NDArray[np.float64],
    is_training: npt.NDArray[np.bool_],
) -> Table:
    result: Table = []
    for index in range(num_bins):
        entry: list[int] = []
        for part in (is_training, ~is_training):
            chosen = numbers[(places == index) & part]
            entry += [len(chosen), *exact_moments(chosen)]
        result.append(entry)
    return result


def merge_tables(parts: Sequence[dict[str, Table]]) -> dict[str, Table]:
    """Adds the tables of blocks, whose bins are the same."""
    return {
        name: [
            [sum(counts) for counts in zip(*bins, strict=True)]
            for bins in zip(*(part[name] for part in parts), strict=True)
        ]
        for name in parts[0]
    }


def auc_of(table: Table) -> float | None:
    """AUC of the classes by a column alone, each against the others; their mean over classes.

    The score of a bin is the share of the class among its training rows.

    Args:
        table: Merged counts of `count_block` for the column.

    Returns:
        Usually 0.5 to 1, on the held-out rows, or on the training rows if there are no others;
        None if all rows are of one class.
    """
    counts = np.array(table, dtype=np.int64)
    num_classes = counts.shape[1] // 2
    training, held_out = counts[:, :num_classes], counts[:, num_classes:]
    judged = held_out if held_out.any() else training
    found = list(_class_aucs(training, judged, num_classes - 1))
    return math.fsum(found) / len(found) if found else None


def _class_aucs(
    training: npt.NDArray[np.int64], judged: npt.NDArray[np.int64], num_classes: int
) -> Iterator[float]:
    sizes = training.sum(axis=1)
    prior = training.sum(axis=0) / max(1, sizes.sum())
    for index in range(num_classes):
        # The score of a bin with few rows is drawn towards the share of the class in all rows.
        scores = (training[:, index] + prior[index]) / (sizes + 1)
        positives, negatives = judged[:, index], judged.sum(axis=1) - judged[:, index]
        if not positives.sum() or not negatives.sum():
            continue
        order = np.argsort(scores, kind="stable")
        below, wins = 0, 0
        for score in np.unique(scores[order]):
            tied = scores == score
            pos, neg = int(positives[tied].sum()), int(negatives[tied].sum())
            # Twice the count of pairs in the right order, where a tie is half a pair.
            wins += pos * (2 * below + neg)
            below += neg
        yield wins / (2 * int(positives.sum()) * int(negatives.sum()))


def r2_of(table: Table) -> float | None:
    """R2 of a regression's target by a column alone, which predicts the mean of its bin.

    Args:
        table: Merged sums of `count_block` for the column.

    Returns:
        At most 1, on the held-out rows, or on the training rows if there are no others; None if the
        target is constant.
    """
    entries = table
    base = 3 if any(entry[3] for entry in entries) else 0
    num_training = sum(entry[0] for entry in entries)
    count = sum(entry[base] for entry in entries)
    if not num_training or not count:
        return None
    total = Fraction(sum(entry[base + 1] for entry in entries), 1 << SHIFT)
    squares = Fraction(sum(entry[base + 2] for entry in entries), 1 << 2 * SHIFT)
    spread = squares - total * total / count
    mean = Fraction(sum(entry[1] for entry in entries), num_training << SHIFT)
    rest = Fraction(0)
    for entry in entries:
        said = Fraction(entry[1], entry[0] << SHIFT) if entry[0] else mean
        summed = Fraction(entry[base + 1], 1 << SHIFT)
        square = Fraction(entry[base + 2], 1 << 2 * SHIFT)
        rest += square - 2 * said * summed + entry[base] * said * said
    return float(1 - rest / spread) if spread else None


@dataclass(frozen=True)
class Drift:
    """How a column differs between two splits.

    Attributes:
        psi: Population stability index; below 0.1 the splits are considered to be the same.
        by_chance: Index that two random parts of the same rows exceed once in a thousand times.
    """

    psi: float
    by_chance: float


def drift_of(reference: ColumnProfile, other: ColumnProfile) -> Drift | None:
    """Compares a column in two splits, by tenths of the reference or by its frequent values.

    None if a split has no rows, or for images.
    """
    pairs = _same_bins(reference, other)
    if pairs is None:
        return None
    # Half a row is added to each bin: an empty one would make the index infinite.
    shares = [np.array(pair, dtype=np.float64) + 0.5 for pair in pairs]
    a, b = (share / share.sum() for share in shares)
    psi = float(((a - b) * np.log(a / b)).sum())
    # For random splits the index follows a scaled chi-squared distribution with one degree of
    # freedom less than bins in use. Its 99.9% quantile, by Wilson and Hilferty's approximation:
    freedom = max(1, sum(one + two > 0 for one, two in zip(*pairs, strict=True)) - 1)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + 3.09 * math.sqrt(spread)) ** 3
    return Drift(psi, float(quantile * sum(1 / max(1, sum(pair)) for pair in pairs)))


def _same_bins(reference: ColumnProfile, other: ColumnProfile) -> list[list[int]] | None:
    if reference.numbers is not None and other.numbers is not None:
        fractions = [index / _DRIFT_BINS for index in range(1, _DRIFT_BINS)]
        edges = sorted(set(reference.numbers.quantiles(fractions)))
        return [_cut(one, edges) for one in (reference, other)]
    if reference.categories and other.categories:
        ranked = sorted(reference.categories.items(), key=lambda item: (-item[1], item[0]))
        known = [name for name, _ in ranked[:MAX_CLASSES]]
        return [_by_category(one, known) for one in (reference, other)]
    return None


def _cut(profile: ColumnProfile, edges: Sequence[float]) -> list[int]:
    assert profile.numbers is not None
    cells = np.array(list(profile.numbers.cells), dtype=np.int64)
    counts = np.array(list(profile.numbers.cells.values()), dtype=np.int64)
    bins = np.searchsorted(np.array(edges), numbers_of(cells), side="right")
    # Exact, as doubles hold whole numbers up to 2**53.
    found = np.bincount(bins, weights=counts, minlength=len(edges) + 1)
    return [*found.astype(np.int64).tolist(), profile.num_missing]


def _by_category(profile: ColumnProfile, known: Sequence[str]) -> list[int]:
    counts = [profile.categories.get(name, 0) for name in known]
    return [*counts, sum(profile.categories.values()) - sum(counts), profile.num_missing]


def ks_of(reference: ColumnProfile, other: ColumnProfile) -> float | None:
    """Greatest distance between the distribution functions of two splits (Kolmogorov-Smirnov)."""
    if reference.numbers is None or other.numbers is None:
        return None
    cells = sorted({*reference.numbers.cells, *other.numbers.cells})
    parts = []
    for one in (reference.numbers, other.numbers):
        counts = np.cumsum([one.cells.get(cell, 0) for cell in cells])
        parts.append(counts / counts[-1])
    return float(np.abs(parts[0] - parts[1]).max())
