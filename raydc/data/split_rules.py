"""Ways to split rows other than by a hash of their ids. Pure; used in tasks of Ray Data.

All that a rule has to know about the other rows is a few keys (see `raydc.data.rank_search`), which
`raydc.data.split_stage` finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import rank_search, times, values
from raydc.data.rank_search import Keys
from raydc.order import Ids, mix
from raydc.spec.sections import Data

TRAIN, VALIDATION, TEST = 0, 1, 2
SplitCodes = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]

NO_GROUP = "has no value, so that it belongs to no group"
NO_TIME = "is not a time: neither a number nor a date such as 2024-02-29 or 2024-02-29T12:00"
NO_SPLIT = "names no split: it must be train, validation or test"
_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
_TIME = "time"


@dataclass(frozen=True)
class SplitBounds:
    """Facts about all rows that a rule needs.

    Attributes:
        keys: For each series the keys that bound the test rows and the validation rows beside
            them; None for a split without rows.
        named: Codes of the splits that the column of the split names.
    """

    keys: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    named: frozenset[int] = frozenset()


NO_BOUNDS = SplitBounds()


def draws(row_ids: Ids, seed: int) -> Keys:
    """A number for each row, which depends on its id and the seed only; no two are equal."""
    key = mix(np.array([seed + 1], dtype=np.uint64))
    return mix(row_ids.astype(np.uint64) ^ key)


def by_fractions(draw: Keys, validation_fraction: float, test_fraction: float) -> SplitCodes:
    """Assigns splits by draws.

    Args:
        draw: A number for each row from `draws`, or for each row's group.
        validation_fraction: Expected fraction of validation rows.
        test_fraction: Expected fraction of test rows. They stay the same rows when only
            `validation_fraction` changes.
    """
    # The top 53 bits as a fraction: exact in a double.
    part = (draw >> np.uint64(11)).astype(np.float64) / 2.0**53
    splits = np.full(len(draw), TRAIN, dtype=np.int8)
    # Test rows take the lowest draws, so that the validation fraction does not move them.
    splits[part < test_fraction + validation_fraction] = VALIDATION
    splits[part < test_fraction] = TEST
    return splits


@dataclass(frozen=True)
class SplitRule:
    """The split of a spec.

    Attributes:
        data: Section `data` of the spec.
        seed: Seed of the spec.
        validation_fraction: Fraction of validation rows to take from the training rows.
        test_fraction: Fraction of test rows to take from them.
        bounds: Facts about all rows; `NO_BOUNDS` for rules that need none.
    """

    data: Data
    seed: int
    validation_fraction: float
    test_fraction: float
    bounds: SplitBounds = NO_BOUNDS

    @property
    def column(self) -> str:
        """Column that decides the split."""
        return self.data.split.column or self.data.target

    def assign(self, table: pa.Table) -> SplitCodes:
        """Assigns the rows of a block, all of which are of the training part of the sources."""
        ids = values.row_ids(table)
        by = self.data.split.by
        if by == "group":
            draw = self._group_draws(values.column_of(table, self.column))
            return by_fractions(draw, self.validation_fraction, self.test_fraction)
        if by in ("stratified", "time"):
            return self._assign_by_keys(table)
        codes = by_fractions(draws(ids, self.seed), self.validation_fraction, self.test_fraction)
        if by == "column":
            told = named_codes(values.column_of(table, self.column))
            # A split that the column names nowhere is taken from the training rows.
            codes[np.isin(codes, list(self.bounds.named))] = TRAIN
            codes = np.where(told > TRAIN, told, codes)
        return codes

    def _group_draws(self, column: pa.Array) -> Keys:
        def hash_of(text: str | None) -> int:
            # That of rows without a group is unused: they are refused or dropped.
            digest = hashlib.blake2b((text or "").encode(), digest_size=8).digest()
            return int.from_bytes(digest, "little")

        hashes = values.coded_texts(column).map(hash_of, np.uint64)
        return mix(hashes ^ mix(np.array([self.seed + 1], dtype=np.uint64)))

    def series(self, table: pa.Table) -> Iterator[tuple[str, Mask, Keys]]:
        """Yields name, rows and keys of each series of a block."""
        if self.data.split.by == "time":
            parsed = times.parse_times(values.column_of(table, self._time_column))
            yield _TIME, ~parsed.missing & ~parsed.wrong, rank_search.keys_of(parsed.values)
            return
        column = values.column_of(table, self.column)
        texts = values.coded_texts(column)
        draw = draws(values.row_ids(table), self.seed)
        for text in sorted({text or "" for text in texts.distinct}):
            places = [place for place, one in enumerate(texts.distinct) if (one or "") == text]
            yield text, np.isin(texts.codes_B, places), draw

    @property
    def _time_column(self) -> str:
        # A window counts as being at the time of its last value.
        return self.column if self.data.windows is None else values.LAST_TIME

    def crosses(self, table: pa.Table) -> Mask:
        """Marks windows whose values are on both sides of a bound in time, bool [B]."""
        if self.data.windows is None or self.data.split.by != "time":
            return np.zeros(table.num_rows, dtype=bool)
        first = table.set_column(
            table.column_names.index(values.LAST_TIME),
            values.LAST_TIME,
            table.column(values.FIRST_TIME),
        )
        crosses: Mask = self.assign(table) != self.assign(first)
        return crosses

    def ranks(self, num_rows: int) -> Sequence[int]:
        """Ranks of the keys that bound the test rows and the validation rows of a series."""
        num_test, num_held_out = self._sizes(num_rows)
        # The last rows in time, or those with the lowest draws.
        if self.data.split.by == "time":
            return [num_rows - max(1, num_test), num_rows - max(1, num_held_out)]
        return [max(0, num_test - 1), max(0, num_held_out - 1)]

    def bounds_of(self, num_rows: int, keys: Sequence[int]) -> tuple[int | None, int | None]:
        """Keys at `ranks`, None for a split without rows.

        Args:
            num_rows: Number of rows in the series.
            keys: Keys at these ranks, in their order.
        """
        num_test, num_held_out = self._sizes(num_rows)
        has_validation = num_held_out > num_test
        return (keys[0] if num_test else None), (keys[1] if has_validation else None)

    def _sizes(self, num_rows: int) -> tuple[int, int]:
        """Test rows, and test and validation rows together."""
        num_test = int(num_rows * self.test_fraction + 0.5)
        return num_test, num_test + int(num_rows * self.validation_fraction + 0.5)

    def _assign_by_keys(self, table: pa.Table) -> SplitCodes:
        codes = np.full(table.num_rows, TRAIN, dtype=np.int8)
        for name, rows, keys in self.series(table):
            test, validation = self.bounds.keys.get(name, (None, None))
            for code, bound in ((VALIDATION, validation), (TEST, test)):
                if bound is None:
                    continue
                limit = np.uint64(bound)
                inside = keys >= limit if self.data.split.by == "time" else keys <= limit
                codes[rows & inside] = code
        return codes

    def check(self, table: pa.Table) -> Iterator[tuple[str, str, Mask]]:
        """Yields column, reason and rows that cannot be split."""
        by = self.data.split.by
        if by not in ("group", "time", "column"):
            return
        # The rows of windows have times and keys.
        if self.data.windows is not None:
            return
        column = values.column_of(table, self.column)
        missing = values.missing_mask(column)
        if by == "group":
            yield self.column, NO_GROUP, missing
        elif by == "time":
            parsed = times.parse_times(column)
            yield self.column, NO_TIME, parsed.wrong | parsed.missing | np.isinf(parsed.values)
        else:
            yield self.column, NO_SPLIT, named_codes(column) < 0


def named_codes(column: pa.Array) -> SplitCodes:
    """Splits that the cells name; -1 for a cell that names none."""

    def code_of(text: str | None) -> int:
        return _NAMES.get((text or "").strip().lower(), -1)

    return values.coded_texts(column).map(code_of, np.int8)
