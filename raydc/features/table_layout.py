"""Columns of numbers and categories as they are stored, and as a network takes them. Pure.

A category is stored as a number of the smallest integer type. One input per category, which
networks take, is made from it in the step: 20 columns of 28 categories take 20 bytes of a row
instead of 2,240.

Shape suffixes: B rows, F inputs of the network, K columns of categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from raydc.features.record import Ragged

Array = npt.NDArray[Any]
NUMBERS = "columns.numbers"
CODES = "columns.codes"
COLUMNS = "columns"


def smallest_type(num_codes: int) -> str:
    """Name of the smallest unsigned type that holds the numbers below `num_codes`."""
    return np.min_scalar_type(max(0, num_codes - 1)).name


@dataclass(frozen=True)
class TableLayout:
    """Where the inputs of each column lie.

    Attributes:
        widths: Number of inputs of each column of categories, and 0 for each column of numbers, in
            the order of the columns.
    """

    widths: tuple[int, ...]

    @cached_property
    def num_inputs(self) -> int:
        """Inputs of the network, F."""
        return sum(width or 1 for width in self.widths)

    @cached_property
    def code_type(self) -> str:
        """Type of the codes. Code `width` means that no input is 1, so it must fit too."""
        return smallest_type(max(self.widths, default=0) + 1)

    @cached_property
    def number_positions(self) -> npt.NDArray[np.int64]:
        """Position among the inputs of each column of numbers."""
        return np.array(
            [start for start, width in zip(self._starts, self.widths, strict=True) if not width],
            dtype=np.int64,
        )

    @cached_property
    def code_starts(self) -> npt.NDArray[np.int64]:
        """First input of each column of categories, int64 [K]."""
        return np.array(
            [start for start, width in zip(self._starts, self.widths, strict=True) if width],
            dtype=np.int64,
        )

    @cached_property
    def code_widths(self) -> npt.NDArray[np.int64]:
        """Inputs of each column of categories, int64 [K]."""
        return np.array([width for width in self.widths if width], dtype=np.int64)

    @cached_property
    def _starts(self) -> list[int]:
        sizes = [width or 1 for width in self.widths]
        return np.cumsum([0, *sizes[:-1]]).tolist() if sizes else []

    @property
    def saves_space(self) -> bool:
        """Whether codes are smaller than one float32 per input."""
        return bool(len(self.code_widths))

    def expand(self, fields: Mapping[str, Array | Ragged]) -> dict[str, Any]:
        """Turns stored numbers and codes into the field `columns`, float32 [B, F].

        Args:
            fields: `columns.numbers`, float32, and `columns.codes`; other fields are passed on.
        """
        codes_BK: Any = fields[CODES]
        columns_BF = np.zeros((len(codes_BK), self.num_inputs), dtype=np.float32)
        if NUMBERS in fields:
            numbers: Any = fields[NUMBERS]
            columns_BF[:, self.number_positions] = numbers
        rows, columns = np.nonzero(codes_BK < self.code_widths)
        columns_BF[rows, self.code_starts[columns] + codes_BK[rows, columns]] = 1.0
        others = {name: v for name, v in fields.items() if name not in (NUMBERS, CODES)}
        return {COLUMNS: columns_BF, **others}

    def store(self, parts: Sequence[Array]) -> dict[str, Array]:
        """Joins the columns of a block to the fields that are stored.

        Args:
            parts: One array for each column: numbers, float32 [B, 1], or codes [B].

        Returns:
            `columns.numbers` if there are such columns, and `columns.codes`.
        """
        numbers = [part for part, width in zip(parts, self.widths, strict=True) if not width]
        codes = [part for part, width in zip(parts, self.widths, strict=True) if width]
        fields = {CODES: np.stack(codes, axis=1).astype(self.code_type)}
        return {NUMBERS: np.concatenate(numbers, axis=1), **fields} if numbers else fields
