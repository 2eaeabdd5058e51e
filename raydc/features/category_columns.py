"""Fitted columns of categories, which are stored as codes. Pure.

Used in tasks of Ray Data, the driver and replicas.

Shape suffixes: B rows, W inputs of a column.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features.raw_values import Values, is_missing, map_distinct
from raydc.features.table_column import TableColumn
from raydc.features.table_layout import Array, smallest_type
from raydc.spec.label_text import find_position, positions_of, text_of


@dataclass(frozen=True)
class Categorical(TableColumn):
    """One input per category, and one each for other and for missing values.

    A value without an input gives zeros: an input that was never 1 in training would have an
    untrained weight.

    Attributes:
        categories: Categories with their own input, the most frequent one first.
        has_other: Whether training rows had further categories, which share an input.
        has_missing: Whether training rows had missing values, which have an input.
        fill: Category that a missing value counts as; None if there is none.
    """

    categories: tuple[str, ...]
    has_other: bool
    has_missing: bool
    fill: str | None = None
    kind: ClassVar[str] = "categorical"

    @property
    def widths(self) -> tuple[int, ...]:
        """See the base class."""
        return (len(self.categories) + self.has_other + self.has_missing,)

    @property
    def code_names(self) -> list[str]:
        """What each code means, that of values without an input included."""
        special = ["(other)"] * self.has_other + ["(missing)"] * self.has_missing
        return [*self.categories, *special, "(not in training)"]

    @cached_property
    def _position(self) -> dict[str, int]:
        return positions_of(self.categories)

    def codes(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[Any]:
        """Finds the input of each raw value.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            [B] of the smallest unsigned type; W for a value without an input.

        Raises:
            DataError: A value is a list or an object.
        """
        missing = self._missing_code

        def code_of(value: Any) -> int:
            return missing if is_missing(value, missing_values) else self._code_of(value)

        kind = smallest_type(self.num_inputs + 1)
        if (found := map_distinct(values, code_of, kind)) is not None:
            return found
        codes_B = np.empty(len(values), dtype=kind)
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str | bool | int | float | np.generic):
                raise DataError(
                    f"rows[{row}].{column}: {shown(value)} is not a category",
                    "Give a string or a number.",
                )
            codes_B[row] = code_of(value)
        return codes_B

    def _code_of(self, value: Any) -> int:
        known = find_position(self._position, value)
        if known is not None:
            return known
        return len(self.categories) if self.has_other else self.num_inputs

    @cached_property
    def _missing_code(self) -> int:
        if self.fill is not None:
            return self._code_of(self.fill)
        return len(self.categories) + self.has_other if self.has_missing else self.num_inputs

    def stored(self, values: Values, column: str, missing_values: frozenset[str]) -> list[Array]:
        """Turns raw values into codes.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".
        """
        return [self.codes(values, column, missing_values)]

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw values into inputs.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, W] with at most one 1 per row.

        Raises:
            DataError: A value is a list or an object.
        """
        codes_B = self.codes(values, column, missing_values)
        one_hot_BW = np.zeros((len(codes_B), self.num_inputs), dtype=np.float32)
        hits = np.flatnonzero(codes_B < self.num_inputs)
        one_hot_BW[hits, codes_B[hits]] = 1.0
        return one_hot_BW


@dataclass(frozen=True)
class CategoryCodes(Categorical):
    """A field of its own: the code of each category, for a network that embeds it.

    A value that training never saw has the code W, whose embedding no row has trained: networks
    make it zeros.
    """

    kind: ClassVar[str] = "embedding"

    @property
    def num_codes(self) -> int:
        """Number of codes, that of unseen values included."""
        return self.num_inputs + 1


@dataclass(frozen=True)
class HashedCategory(Categorical):
    """One input for each bucket that categories are hashed to.

    A category that training never saw has the bucket of its hash, which it shares with others; in a
    bucket that no training row was in, it gives zeros.

    Attributes:
        num_buckets: Number of buckets that categories are hashed to.
        used: Buckets of training rows, ascending; each has an input.
    """

    num_buckets: int = 1
    used: tuple[int, ...] = ()
    kind: ClassVar[str] = "hashing"

    @property
    def widths(self) -> tuple[int, ...]:
        """See the base class."""
        return (len(self.used) + self.has_missing,)

    @property
    def code_names(self) -> list[str]:
        """What each code means, that of values without an input included."""
        special = ["(missing)"] * self.has_missing
        return [*(f"bucket {one}" for one in self.used), *special, "(not in training)"]

    @cached_property
    def _code_of_bucket(self) -> dict[int, int]:
        return {bucket: code for code, bucket in enumerate(self.used)}

    def _code_of(self, value: Any) -> int:
        return self._code_of_bucket.get(bucket_of(value, self.num_buckets), self.num_inputs)

    @cached_property
    def _missing_code(self) -> int:
        if self.fill is not None:
            return self._code_of(self.fill)
        return len(self.used) if self.has_missing else self.num_inputs


def bucket_of(value: Any, num_buckets: int) -> int:
    """Bucket of a category: a hash of the bytes of its text, the same on every machine.

    Args:
        value: A category in any of its spellings.
        num_buckets: Buckets are numbered from 0 to one less than this.
    """
    text = text_of(value)
    # Python and pandas write True into CSV files, for which JSON has `true`.
    text = text.lower() if text in ("True", "False") else text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % num_buckets
