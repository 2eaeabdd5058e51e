"""Decides which rows are dropped and which are for training, validation or test.

Pure functions of row ids and raw values; used in tasks of Ray Data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.order import Ids, mix
from raydc.spec.resolved import ResolvedData

# The first three are indices into `raydc.data.shards.SPLITS`.
TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, -1
SplitCodes = npt.NDArray[np.int8]


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
    key = mix(np.array([seed + 1], dtype=np.uint64))
    # The top 53 bits as a fraction: exact in a double.
    draw = (mix(row_ids.astype(np.uint64) ^ key) >> np.uint64(11)).astype(np.float64) / 2.0**53
    splits = np.full(len(row_ids), TRAIN, dtype=np.int8)
    # Test rows take the lowest draws, so that the validation fraction does not move them.
    splits[draw < test_fraction + validation_fraction] = VALIDATION
    splits[draw < test_fraction] = TEST
    return splits


@dataclass(frozen=True)
class Cleaner:
    """Assigns each row of a block to a split, or drops it.

    Attributes:
        first_test_id: Lowest row id of the official test part; None if there is no such part.
        data: Section `data` of the spec.
        seed: Seed of the spec.
        kinds: Kind of each input column.
        duplicates: int64, sorted: ids of rows that repeat an earlier one.
        first_validation_id: Lowest row id of the official validation part, if there is one.
    """

    first_test_id: int | None
    data: ResolvedData
    seed: int
    kinds: dict[str, str]
    duplicates: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    first_validation_id: int | None = None

    def assign_splits(self, table: pa.Table) -> SplitCodes:
        """Assigns the rows of a block: int8 [B] of TRAIN, VALIDATION, TEST or DROPPED."""
        ids = values.row_ids(table)
        split = self.data.split
        test_fraction = split.test_fraction if self.first_test_id is None else 0.0
        has_validation = self.first_validation_id is not None
        validation_fraction = 0.0 if has_validation else split.validation_fraction
        result = hash_split(ids, self.seed, validation_fraction, test_fraction)
        # Row ids of the parts follow those of the training part: see `raydc.data.layout`.
        if self.first_validation_id is not None:
            result[ids >= self.first_validation_id] = VALIDATION
        if self.first_test_id is not None:
            result[ids >= self.first_test_id] = TEST
        result[self._is_dropped(table, ids)] = DROPPED
        return result

    def _is_dropped(self, table: pa.Table, ids: Ids) -> npt.NDArray[np.bool_]:
        dropped = np.isin(ids, self.duplicates)
        may_be_missing = dict(self.kinds) if self.data.clean.missing == "drop" else {}
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
