"""The fitted column of lists of numbers: a series, or an array of one size. Pure.

Used in tasks of Ray Data, the driver and replicas.

Shape suffixes: B rows, N items of all lists, K numbers of an item.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features import nested
from raydc.features.record import Array, Ragged
from raydc.features.signature import Field

Values = Sequence[Any] | npt.NDArray[Any]


@dataclass(frozen=True)
class NumberList:
    """Numbers of a row, each (number - shift) / scale.

    Attributes:
        mean: Mean of each number of an item over the training rows; of one number, if items are
            plain numbers.
        shift: Subtracted from each number of an item.
        scale: Divisor of each number of an item, applied after the shift; not 0.
        max_items: Most items of a list; what comes after them is cut off. 0 for an array, of which
            each row has as many numbers as `mean`.
        has_width: Whether an item of a list is an array of numbers and no plain number.
    """

    mean: tuple[float, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    max_items: int
    has_width: bool = False
    kind: ClassVar[str] = "list"

    @property
    def field(self) -> Field:
        """The field of a row that it gives."""
        if not self.max_items:
            return Field("array", "float32", (len(self.mean),))
        return Field("list", "float32", self._item_shape, max_length=self.max_items)

    @property
    def _item_shape(self) -> tuple[int, ...]:
        return (len(self.mean),) if self.has_width else ()

    def apply(self, values: Values, column: str, missing_values: Collection[str]) -> Array | Ragged:
        """Turns raw lists into scaled numbers; a missing list is empty, a missing array the mean.

        Args:
            values: Raw values of B rows: lists, arrays, or JSON text of a list.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Raises:
            DataError: A value is not a list of finite numbers, or has another shape; the message
                names its row and column.
        """
        lists = [
            self._read(value, f"rows[{row}].{column}", missing_values)
            for row, value in enumerate(values)
        ]
        lengths = np.array([len(items) for items in lists], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        numbers = np.concatenate([np.empty((0, *self._numbers_shape)), *lists])
        with np.errstate(over="ignore"):
            scaled = ((numbers - self._array(self.shift)) / self._array(self.scale)).astype(
                np.float32
            )
        if not np.isfinite(scaled).all():
            place = int(np.argwhere(~np.isfinite(scaled))[0][0])
            row = int(np.searchsorted(offsets, place, side="right")) - 1
            found = shown(numbers[place].tolist())
            fault = "too large" if np.isfinite(numbers[place]).all() else "not a finite number"
            item = place - int(offsets[row]) + 1
            raise DataError(f"rows[{row}].{column}: item {item}, {found}, is {fault}")
        if not self.max_items:
            return scaled.reshape(len(lists), len(self.mean))
        return Ragged(scaled, offsets)

    @property
    def _numbers_shape(self) -> tuple[int, ...]:
        # An array is one item here.
        return self._item_shape if self.max_items else (len(self.mean),)

    def _array(self, numbers: tuple[float, ...]) -> npt.NDArray[np.float64]:
        array = np.array(numbers, dtype=np.float64)
        return array if self._numbers_shape else array[0]

    def _read(
        self, value: Any, place: str, missing_values: Collection[str]
    ) -> npt.NDArray[np.float64]:
        if _is_missing(value, missing_values):
            shape = (0, *self._numbers_shape)
            return np.empty(shape) if self.max_items else np.array([self.mean])
        try:
            parsed = json.loads(value) if isinstance(value, str) else value
            if not isinstance(parsed, list | tuple | np.ndarray):
                raise ValueError("it is not a list")
            given_list = list(parsed) if isinstance(parsed, tuple) else parsed
            array = nested.to_array(given_list, takes_booleans=False)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{place}: {shown(value)} cannot be read as a list of numbers: {error}",
                "Give a list such as [1, 2.5], or null where it is missing.",
            ) from error
        if not array.size and self.max_items:
            array = np.empty((0, *self._item_shape))
        wanted = self._item_shape if self.max_items else (len(self.mean),)
        given = array.shape[1:] if self.max_items else array.shape
        if array.ndim == 0 or given != wanted or array.dtype.kind not in "iuf":
            raise DataError(f"{place}: the shape {list(array.shape)} is not {self._shown_shape}")
        numbers = array.astype(np.float64)
        return numbers[: self.max_items] if self.max_items else numbers[None]

    @property
    def _shown_shape(self) -> str:
        if not self.max_items:
            return f"[{len(self.mean)}]"
        return f"[any length, {len(self.mean)}]" if self.has_width else "[any length]"


def _is_missing(value: Any, missing_values: Collection[str]) -> bool:
    is_nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return value is None or is_nan or (isinstance(value, str) and value in missing_values)
