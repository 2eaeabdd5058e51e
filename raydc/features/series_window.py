"""The fitted input of the past steps of a series. Pure.

Used in tasks of Ray Data, the driver and replicas.

Shape suffixes: B rows, L past steps, C columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features import nested
from raydc.features.raw_values import Values, numbers
from raydc.features.signature import Field


@dataclass(frozen=True)
class SeriesWindow:
    """The past steps of some columns, each scaled by its mean and deviation.

    Attributes:
        length: Number of steps, L.
        columns: Names of the columns, C.
        shifts: What is subtracted from the values of each column.
        scales: Divisor of each column, after the shift.
        target: Position of the target among the columns; None if it is not one of them.
        takes_previous: Whether a missing number is replaced by the number before it.
    """

    length: int
    columns: tuple[str, ...]
    shifts: tuple[float, ...]
    scales: tuple[float, ...]
    target: int | None = None
    takes_previous: bool = False
    kind: ClassVar[str] = "window"

    @property
    def field(self) -> Field:
        """Field of a row that holds the window."""
        shape = (self.length, len(self.columns))
        return Field("array", "float32", shape, own_column=self.target)

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw steps into inputs.

        Args:
            values: Steps of B rows: an array [B, L, C]; or for each row a list of L steps, or that
                list as JSON text. A step is an object, a list of C numbers or, for a single
                column, a number.
            column: Name of the input, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, L, C].

        Raises:
            DataError: There are more or fewer steps, or a value is missing or not a number; the
                message names row, step and column.
        """
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            numbers_BLC = values.astype(np.float64).reshape(-1, self.length, len(self.columns))
        else:
            rows = [
                self._read(cell, f"rows[{i}].{column}", missing_values)
                for i, cell in enumerate(values)
            ]
            shape = (len(rows), self.length, len(self.columns))
            numbers_BLC = np.array(rows, dtype=np.float64).reshape(shape)
        if np.isnan(numbers_BLC).any():
            self._fill(numbers_BLC, column)
        with np.errstate(over="ignore"):
            scaled_BLC = ((numbers_BLC - self.shifts) / self.scales).astype(np.float32)
        if not np.isfinite(scaled_BLC).all():
            place = np.argwhere(~np.isfinite(scaled_BLC))[0]
            number = float(numbers_BLC[tuple(place)])
            fault = "too large for float32" if np.isfinite(number) else "not a finite number"
            raise DataError(f"{self._place(column, place)}: {number} is {fault}")
        return scaled_BLC

    def _place(self, column: str, place: Any) -> str:
        row, step, name = (int(part) for part in place)
        return f"rows[{row}].{column}[{step}].{self.columns[name]}"

    def _fill(self, numbers_BLC: npt.NDArray[np.float64], column: str) -> None:
        """Replaces missing numbers by those before them, if the model was trained that way."""
        for step in range(1, self.length if self.takes_previous else 0):
            now, before = numbers_BLC[:, step], numbers_BLC[:, step - 1]
            np.copyto(now, before, where=np.isnan(now))
        missing = np.argwhere(np.isnan(numbers_BLC))
        if len(missing):
            hint = "There is no number before it." if self.takes_previous else None
            place = self._place(column, missing[0])
            raise DataError(f"{place}: the value is missing", hint or self._form)

    @cached_property
    def _form(self) -> str:
        step = ", ".join(f"{name!r}: number" for name in self.columns)
        return f"Give a list of {self.length} steps, the oldest first: [{{{step}}}, ...]."

    def _read(self, cell: Any, place: str, missing_values: frozenset[str]) -> Any:
        """Numbers [L, C] of one row."""
        if isinstance(cell, str):
            try:
                cell = json.loads(cell)
            # Texts of requests and files may be nested more deeply than Python can read.
            except (ValueError, RecursionError):
                raise DataError(f"{place}: {shown(cell)} is not a list", self._form) from None
        if isinstance(cell, np.ndarray):
            cell = cell.tolist()
        if not isinstance(cell, list):
            raise DataError(f"{place}: {shown(cell)} is not a list of steps", self._form)
        if len(cell) != self.length:
            raise DataError(
                f"{place}: it has {len(cell)} steps, expected {self.length}", self._form
            )
        plain = self._plain(cell)
        if plain is not None:
            return plain
        steps = [self._cells(step, f"{place}[{i}]") for i, step in enumerate(cell)]
        by_column = zip(self.columns, zip(*steps, strict=True), strict=True)
        try:
            return np.stack([numbers(c, name, missing_values) for name, c in by_column], axis=1)
        except DataError as error:
            # Steps are the rows of such a column.
            raise DataError(place + error.message.removeprefix("rows"), error.hint) from error

    def _plain(self, steps: list[Any]) -> npt.NDArray[Any] | None:
        """The numbers of steps that are plain numbers, as nearly all are; None for others."""
        try:
            given = nested.to_array(steps, takes_booleans=False)
        except ValueError:
            return None
        if given.size != self.length * len(self.columns):
            return None
        return given.reshape(self.length, len(self.columns)) if given.dtype.kind in "iuf" else None

    def _cells(self, step: Any, place: str) -> list[Any]:
        """Values of one step, in the order of the columns."""
        if isinstance(step, Mapping):
            # Clients may send whole rows of the series, whose other columns are not used.
            return [step.get(name) for name in self.columns]
        cells = step if isinstance(step, list) else [step]
        if len(cells) != len(self.columns):
            raise DataError(
                f"{place}: it has {len(cells)} values, expected {len(self.columns)}", self._form
            )
        return cells

    def unscale(self, scaled: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Turns inputs of the target's own column into units of the target.

        Args:
            scaled: Inputs of that column, in an array of any shape.
        """
        assert self.target is not None
        numbers: npt.NDArray[np.float64] = np.asarray(scaled, dtype=np.float64)
        return numbers * self.scales[self.target] + self.shifts[self.target]
