"""Base of the columns whose inputs are joined into one array. Pure.

Shape suffixes: B rows, W inputs of a column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError
from raydc.features.raw_values import Values
from raydc.features.table_layout import Array


@dataclass(frozen=True)
class TableColumn(ABC):
    """A fitted column of numbers, dates or categories."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """How its inputs are stored: 0 for a number, else the number of inputs that a code makes.

        A code of one input is a mark, which is stored after the numbers.
        """

    @property
    def num_inputs(self) -> int:
        """Inputs of the network for this column, W."""
        return sum(width or 1 for width in self.widths)

    @abstractmethod
    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw values into inputs.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, W].

        Raises:
            DataError: A value does not fit; the message names its row and column.
        """

    def stored(self, values: Values, column: str, missing_values: frozenset[str]) -> list[Array]:
        """Turns raw values into what is stored, a part for each of `widths`.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, 1] for a number, codes [B] for others.
        """
        inputs_BW = self.apply(values, column, missing_values)
        parts: list[Array] = []
        for position, width in enumerate(self.widths):
            if width:
                # Code 0 sets the input to 1; code 1 stands for no category, so the input stays 0.
                parts.append((1 - inputs_BW[:, position]).astype(np.uint8))
            else:
                parts.append(inputs_BW[:, position : position + 1])
        return parts


def to_inputs(
    scaled_B: npt.NDArray[np.float64], numbers_B: npt.NDArray[np.float64], column: str
) -> npt.NDArray[np.float32]:
    """Rounds scaled numbers to float32 [B]; `raydc.errors.DataError` names one that does not fit.

    Args:
        scaled_B: Numbers of a column after shift and scale; NaN stays NaN.
        numbers_B: Numbers before scaling, for the message.
        column: Name of the column, for the message.
    """
    # Overflow is found below, with its row.
    with np.errstate(over="ignore"):
        inputs_B: npt.NDArray[np.float32] = scaled_B.astype(np.float32)
    if np.isinf(inputs_B).any():
        row = int(np.flatnonzero(np.isinf(inputs_B))[0])
        raise DataError(f"rows[{row}].{column}: {float(numbers_B[row])} is too large for float32")
    return inputs_B
