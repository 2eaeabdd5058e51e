"""Which rows go where: dropped, or into train, validation or test. Pure functions of row ids and raw values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.order import Ids, mix
from raydc.spec.resolved import ResolvedData

TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, -1
Splits = npt.NDArray[np.int8]


def hash_split(row_ids: Ids, seed: int, validation_fraction: float, test_fraction: float) -> Splits:
    """The split of rows by a hash of their ids; a row stays in it whatever happens to rows after it.

    Args:
        row_ids: int64 [B].
        seed: Seed of the spec.
        validation_fraction: Expected part of the rows.
        test_fraction: The same. Changing the other fraction does not change the test rows.

    Returns:
        int8 [B]: TRAIN, VALIDATION or TEST.
    """
    key = mix(np.array([seed + 1], dtype=np.uint64))
    # The top 53 bits as a fraction: exact in a double.
    draw = (mix(row_ids.astype(np.uint64) ^ key) >> np.uint64(11)).astype(np.float64) / 2.0**53
    splits = np.full(len(row_ids), TRAIN, dtype=np.int8)
    splits[draw < test_fraction + validation_fraction] = VALIDATION
    splits[draw < test_fraction] = TEST
    return splits


@dataclass(frozen=True)
class Cleaner:
    """Assigns the rows of a block.

    Attributes:
        first_test_id: Lowest row id of the official test part; None where there is none.
        data: The spec's section.
        seed: Seed of the spec.
        kinds: Kind of each input column.
        duplicates: int64, sorted: ids of rows that repeat an earlier one.
    """

    first_test_id: int | None
    data: ResolvedData
    seed: int
    kinds: dict[str, str]
    duplicates: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def splits(self, table: pa.Table) -> Splits:
        """int8 [B]: TRAIN, VALIDATION, TEST or DROPPED."""
        ids = values.row_ids(table)
        split = self.data.split
        test_fraction = split.test_fraction if self.first_test_id is None else 0.0
        result = hash_split(ids, self.seed, split.validation_fraction, test_fraction)
        if self.first_test_id is not None:
            result[ids >= self.first_test_id] = TEST
        result[self._dropped(table, ids)] = DROPPED
        return result

    def _dropped(self, table: pa.Table, ids: Ids) -> npt.NDArray[np.bool_]:
        dropped = np.isin(ids, self.duplicates)
        if self.data.clean.missing == "drop":
            target_kind = "numeric" if self.data.task == "regression" else "categorical"
            for name, kind in {**self.kinds, self.data.target: target_kind}.items():
                column = values.column_of(table, name)
                dropped |= (
                    values.parse_numbers(column).missing
                    if kind == "numeric"
                    else values.missing(column)
                )
        return dropped


def later_copies(ids: Ids, digests: Sequence[bytes]) -> Ids:
    """Ids of rows whose digest a row of a lower id has, sorted."""
    first: dict[bytes, int] = {}
    copies = []
    for row_id, digest in sorted(zip(ids.tolist(), digests, strict=True)):
        if first.setdefault(digest, row_id) != row_id:
            copies.append(row_id)
    return np.array(copies, dtype=np.int64)
