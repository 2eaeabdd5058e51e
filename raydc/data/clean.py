"""Decides which rows are dropped and which are for training, validation or test.

Pure functions of row ids and raw values; used in tasks of Ray Data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import split_rules, values
from raydc.data.row_faults import FaultFinder
from raydc.data.split_rules import NO_BOUNDS, SplitBounds, SplitRule
from raydc.order import Ids
from raydc.spec.resolved import ResolvedData

# The first three are indices into `raydc.data.shards.SPLITS`.
TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, -1
SplitCodes = npt.NDArray[np.int8]
Limits = tuple[float, float]


def hash_split(
    row_ids: Ids, seed: int, validation_fraction: float, test_fraction: float
) -> SplitCodes:
    """Assigns rows to splits by a hash of their ids, so that a row's split depends on no other row.

    Args:
        row_ids: int64 [B], stable ids; the same row always lands in the same split.
        seed: Seed of the spec; another seed splits the rows differently.
        validation_fraction: Expected fraction of validation rows.
        test_fraction: Expected fraction of test rows. They stay the same rows when only
            `validation_fraction` changes.

    Returns:
        int8 [B]: TRAIN, VALIDATION or TEST.
    """
    draw = split_rules.draws(row_ids, seed)
    return split_rules.by_fractions(draw, validation_fraction, test_fraction)


@dataclass(frozen=True)
class Cleaner:
    """Assigns each row of a block to a split, or drops it.

    Attributes:
        first_test_id: Lowest row id of the official test part; None if there is no such part.
        data: Section `data` of the spec.
        seed: Seed of the spec.
        kinds: Kind of each input column by its name, such as `numeric`.
        duplicates: int64, sorted: ids of rows that repeat an earlier one.
        first_validation_id: Lowest row id of the official validation part, if there is one.
        limits: Lowest and highest number by column; numbers beyond them are outliers.
        bounds: Facts about all rows that the split needs.
    """

    first_test_id: int | None
    data: ResolvedData
    seed: int
    kinds: dict[str, str]
    duplicates: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    first_validation_id: int | None = None
    limits: Mapping[str, Limits] = field(default_factory=dict)
    bounds: SplitBounds = NO_BOUNDS

    def assign_splits(self, table: pa.Table) -> SplitCodes:
        """Assigns the rows of a block: int8 [B] of TRAIN, VALIDATION, TEST or DROPPED."""
        ids = values.row_ids(table)
        result = self.rule.assign(table)
        # Before the parts: a part of its own is whole.
        result[self.rule.crosses(table)] = DROPPED
        # Row ids of the parts follow those of the training part: see `raydc.data.layout`.
        if self.first_validation_id is not None:
            result[ids >= self.first_validation_id] = VALIDATION
        if self.first_test_id is not None:
            result[ids >= self.first_test_id] = TEST
        result[self._is_dropped(table, ids)] = DROPPED
        # Held-out rows stay: the endpoint answers rows with outliers, too.
        result[(result == TRAIN) & self._has_outlier(table)] = DROPPED
        return result

    @property
    def rule(self) -> SplitRule:
        """The split of the training part of the sources."""
        split = self.data.split
        test_fraction = split.test_fraction if self.first_test_id is None else 0.0
        has_validation = self.first_validation_id is not None
        validation_fraction = 0.0 if has_validation else split.validation_fraction
        return SplitRule(self.data, self.seed, validation_fraction, test_fraction, self.bounds)

    @property
    def finder(self) -> FaultFinder:
        """Finds the rows that cannot be used."""
        return FaultFinder(self.data, self.kinds, self.rule)

    def is_split(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Marks the rows that the split assigns: kept ones outside the official parts."""
        ids = values.row_ids(table)
        ends = [end for end in (self.first_validation_id, self.first_test_id) if end is not None]
        return ~self._is_dropped(table, ids) & (ids < min(ends, default=np.iinfo(np.int64).max))

    @property
    def clips(self) -> dict[str, Limits]:
        """Limits to which numbers are brought, by column."""
        return self._limits_of("clip")

    def numbers(self, table: pa.Table, name: str) -> values.Parsed:
        """Numbers of a column as the network will see them: brought to their limits.

        Args:
            table: Raw rows of a block.
            name: Numeric column to read.
        """
        parsed = values.parse_numbers(values.column_of(table, name))
        both = self.clips.get(name)
        return parsed if both is None else replace(parsed, values=np.clip(parsed.values, *both))

    def _limits_of(self, policy: str) -> dict[str, Limits]:
        clean = self.data.clean
        return {
            name: both for name, both in self.limits.items() if clean.of(name).outliers == policy
        }

    def _has_outlier(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        found = np.zeros(table.num_rows, dtype=bool)
        for name, (low, high) in self._limits_of("drop").items():
            numbers_B = values.parse_numbers(values.column_of(table, name)).values
            # A missing number is NaN, which is beyond no limit.
            found |= (numbers_B < low) | (numbers_B > high)
        return found

    def _is_dropped(self, table: pa.Table, ids: Ids) -> npt.NDArray[np.bool_]:
        dropped = np.isin(ids, self.duplicates)
        clean = self.data.clean
        if clean.on_error != "fail":
            dropped |= self.finder.mask(table)
        may_be_missing = {
            name: kind for name, kind in self.kinds.items() if clean.of(name).missing == "drop"
        }
        if self.data.clean.drops_missing_target:
            target_kind = "numeric" if self.data.task == "regression" else "categorical"
            may_be_missing[self.data.target] = target_kind
        for name, kind in may_be_missing.items():
            column = values.column_of(table, name)
            dropped |= (
                values.parse_numbers(column).missing
                if kind == "numeric"
                else values.missing_mask(column)
            )
        return dropped


def find_later_copies(ids: Ids, digests: Sequence[bytes]) -> Ids:
    """Finds rows that repeat an earlier one.

    Args:
        ids: int64 [B], row ids in any order; of equal rows the lowest one stays.
        digests: Digest of each row, in the order of `ids`; equal rows have equal ones.

    Returns:
        int64, sorted: ids of all rows but the lowest of each digest.
    """
    first: dict[bytes, int] = {}
    copies = []
    for row_id, digest in sorted(zip(ids.tolist(), digests, strict=True)):
        if first.setdefault(digest, row_id) != row_id:
            copies.append(row_id)
    return np.array(copies, dtype=np.int64)
