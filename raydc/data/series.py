"""Series of keys that are searched by rank: what they are made of. Used in tasks of Ray Data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from raydc.data import rank_search
from raydc.data.clean import TRAIN, Cleaner
from raydc.data.rank_search import Keys


class KeySeries(Protocol):
    """Gives the keys of the rows of a block."""

    def keys(self, table: pa.Table) -> dict[str, Keys]:
        """Keys by name of their series; see `raydc.data.rank_search`."""


@dataclass(frozen=True)
class SplitKeys:
    """The keys by which rows are split, of the rows that the split is about.

    Attributes:
        cleaner: Knows these rows, and the rule.
    """

    cleaner: Cleaner

    def keys(self, table: pa.Table) -> dict[str, Keys]:
        """Keys of the rows by class, or those of their times."""
        kept = self.cleaner.is_split(table)
        found = {name: keys[rows & kept] for name, rows, keys in self.cleaner.rule.series(table)}
        return {name: keys for name, keys in found.items() if len(keys)}


@dataclass(frozen=True)
class TrainingNumbers:
    """The numbers of some columns over the training rows; missing ones are left out.

    Attributes:
        cleaner: Knows the training rows, and the limits that numbers are brought to.
        names: Names of the columns, each of which is a series.
    """

    cleaner: Cleaner
    names: tuple[str, ...]

    def keys(self, table: pa.Table) -> dict[str, Keys]:
        """Keys of the numbers by column."""
        training = table.filter(pa.array(self.cleaner.assign_splits(table) == TRAIN))
        found = {}
        for name in self.names:
            numbers_B = self.cleaner.numbers(training, name)
            found[name] = rank_search.keys_of(numbers_B.values[~numbers_B.missing])
        return found
