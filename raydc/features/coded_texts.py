"""Texts of a column as the distinct ones and a number for each row. Pure.

Used in tasks of Ray Data and in the driver. Most columns of text have few distinct values, so that
what is done once for each of them costs next to nothing for a row.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt


class CodedTexts(Sequence[str | None]):
    """A sequence of texts that holds each distinct one once.

    Args:
        distinct: Distinct texts in the order of their first rows; None marks a missing value, and
            is there only if a row has it.
        codes_B: Place in `distinct` of the text of each row, a whole number [B].
    """

    def __init__(self, distinct: Sequence[str | None], codes_B: npt.NDArray[Any]) -> None:
        self.distinct = list(distinct)
        self.codes_B = codes_B

    def __len__(self) -> int:
        return len(self.codes_B)

    @overload
    def __getitem__(self, index: int) -> str | None: ...

    @overload
    def __getitem__(self, index: slice) -> CodedTexts: ...

    def __getitem__(self, index: int | slice) -> str | CodedTexts | None:
        if isinstance(index, slice):
            return self.select(self.codes_B[index])
        return self.distinct[int(self.codes_B[index])]

    def __iter__(self) -> Iterator[str | None]:
        return iter(self.to_list())

    def select(self, codes_B: npt.NDArray[Any]) -> CodedTexts:
        """Texts of other rows, given by their codes [B]."""
        # The order of the first rows has to hold for these rows, too.
        used, first = np.unique(codes_B, return_index=True)
        used = used[np.argsort(first)]
        places = np.zeros(len(self.distinct), dtype=np.int64)
        places[used] = np.arange(len(used))
        return CodedTexts([self.distinct[code] for code in used.tolist()], places[codes_B])

    def to_list(self) -> list[str | None]:
        """The text of each row."""
        distinct = self.distinct
        return [distinct[code] for code in self.codes_B.tolist()]

    def map(self, function: Callable[[str | None], Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Applies a function once to each distinct text.

        Args:
            function: Called with a text, or None for a missing one.
            dtype: Type of its results.

        Returns:
            A result for each row, [B].
        """
        found = np.fromiter(map(function, self.distinct), dtype, len(self.distinct))
        found_B: npt.NDArray[Any] = found[self.codes_B]
        return found_B

    def counts(self) -> dict[str | None, int]:
        """Number of rows with each distinct text."""
        counts = np.bincount(self.codes_B, minlength=len(self.distinct))
        return dict(zip(self.distinct, counts.tolist(), strict=True))
