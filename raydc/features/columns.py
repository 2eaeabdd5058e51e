"""Fitted columns: each turns raw values into a part of a row.

Shape suffixes: B rows, W inputs of a column, H W C height, width and channels of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, TooManyPixelsError, shown
from raydc.features import images

Values = Sequence[Any] | npt.NDArray[Any]


def text_of(value: Any) -> str:
    """The text of a label or category: `3`, `3.0` and `"3"` are the same one, true is `true`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value.item() if isinstance(value, np.generic) else value)


def is_missing(value: Any, missing_values: frozenset[str]) -> bool:
    """None, NaN, and the strings that the spec calls missing."""
    if isinstance(value, str):
        return value in missing_values
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def numbers(
    values: Values, column: str, missing_values: frozenset[str] = frozenset()
) -> npt.NDArray[np.float64]:
    """Raw values of a numeric column as float64 [B], NaN where one is missing.

    Raises:
        DataError: A value that is no finite number, named by its row and column.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        result = values.astype(np.float64)
    else:
        result = np.array(
            [_number(v, i, column, missing_values) for i, v in enumerate(values)], dtype=np.float64
        )
    if np.isinf(result).any():
        row = int(np.flatnonzero(np.isinf(result))[0])
        raise DataError(f"rows[{row}].{column}: {float(result[row])} is not a finite number")
    return result


def _number(value: Any, row: int, column: str, missing_values: frozenset[str]) -> float:
    if is_missing(value, missing_values):
        return math.nan
    try:
        # Text of a number counts as one, as it does in a CSV file; true and 1_000 do not.
        if not isinstance(value, bool | np.bool_) and "_" not in str(value):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(
        f"rows[{row}].{column}: {shown(value)} is not a number",
        "Give a number, or null where it is missing.",
    )


@dataclass(frozen=True)
class Numeric:
    """One input: (value - shift) / scale, with `mean` in place of a missing value."""

    mean: float
    shift: float
    scale: float
    kind: ClassVar[str] = "numeric"

    @property
    def num_inputs(self) -> int:
        return 1

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """float32 [B, 1]. Raises DataError for a value that is no number, or that float32 cannot hold."""
        numbers_B = numbers(values, column, missing_values)
        numbers_B[np.isnan(numbers_B)] = self.mean
        with np.errstate(over="ignore"):
            scaled_B = ((numbers_B - self.shift) / self.scale).astype(np.float32)
        if np.isinf(scaled_B).any():
            row = int(np.flatnonzero(np.isinf(scaled_B))[0])
            raise DataError(f"rows[{row}].{column}: {float(numbers_B[row])} is too large")
        return scaled_B[:, None]


@dataclass(frozen=True)
class Categorical:
    """One input per category, and one each for other and missing values where the training rows have such.

    A value that training has not seen gives zeros: an input that never was 1 has an untrained weight.
    """

    categories: tuple[str, ...]
    has_other: bool
    has_missing: bool
    kind: ClassVar[str] = "categorical"

    @property
    def num_inputs(self) -> int:
        return len(self.categories) + self.has_other + self.has_missing

    @cached_property
    def _position(self) -> dict[str, int]:
        return {category: position for position, category in enumerate(self.categories)}

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """float32 [B, W]: at most one 1 per row."""
        num_known = len(self.categories)
        other = num_known if self.has_other else -1
        missing = num_known + self.has_other if self.has_missing else -1
        position, slots = self._position, np.empty(len(values), dtype=np.int64)
        for row, value in enumerate(values):
            if is_missing(value, missing_values):
                slots[row] = missing
            elif isinstance(value, str | bool | int | float | np.generic):
                slots[row] = position.get(text_of(value), other)
            else:
                raise DataError(
                    f"rows[{row}].{column}: {shown(value)} is not a category",
                    "Give a string or a number.",
                )
        one_hot_BW = np.zeros((len(slots), self.num_inputs), dtype=np.float32)
        hits = np.flatnonzero(slots >= 0)
        one_hot_BW[hits, slots[hits]] = 1.0
        return one_hot_BW


@dataclass(frozen=True)
class Image:
    """An image of a fixed size."""

    height: int
    width: int
    channels: int
    kind: ClassVar[str] = "image"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), as it is stored."""
        return self.channels, self.height, self.width

    def apply(
        self, values: Values, column: str, max_pixels: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """uint8 [B, C, H, W].

        Args:
            values: Arrays, files or texts (see `images.decode`); or one uint8 array [B, H, W] or [B, H, W, C].
            column: For messages.
            max_pixels: Most pixels that may be decoded for all values together. A file counts with the pixels that
                it says it has, before anything of it is decoded, and at least with those of the result.

        Raises:
            DataError: A value that is missing or no image, named by its row and column.
            TooManyPixelsError: The first image with which there are too many.
        """
        if isinstance(values, np.ndarray) and values.dtype == np.uint8 and self._fits(values):
            images_BHWC = values.reshape(len(values), self.height, self.width, self.channels)
            return np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2))
        decoded: list[npt.NDArray[np.uint8]] = []
        num_pixels = 0
        for row, value in enumerate(values):
            if value is None:
                raise DataError(
                    f"rows[{row}].{column}: there is no image", "An image cannot be filled in."
                )
            try:
                image = images.look(value)
                num_pixels += max(images.area(image), self.height * self.width)
                if max_pixels is not None and num_pixels > max_pixels:
                    raise TooManyPixelsError(
                        f"rows[{row}].{column}: with this image there are {num_pixels} pixels to decode, at most "
                        f"{max_pixels} are allowed"
                    )
                pixels_HWC = images.to_pixels(image, (self.height, self.width), self.channels)
            except ValueError as error:
                raise DataError(f"rows[{row}].{column}: not a readable image: {error}") from error
            decoded.append(pixels_HWC.transpose(2, 0, 1))
        if len(decoded) == 1:  # Most requests; `stack` would take longer than the rest.
            return np.ascontiguousarray(decoded[0])[None]
        return np.stack(decoded) if decoded else np.empty((0, *self.shape), dtype=np.uint8)

    def _fits(self, values: npt.NDArray[np.uint8]) -> bool:
        shape = values.shape[1:]
        return shape == (self.height, self.width, self.channels) or (
            self.channels == 1 and shape == (self.height, self.width)
        )


Column = Numeric | Categorical | Image

_KINDS: dict[str, Callable[..., Column]] = {
    "numeric": Numeric,
    "categorical": Categorical,
    "image": Image,
}


def column_to_dict(column: Column) -> dict[str, Any]:
    """Plain JSON values."""
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(column).items()}
    return {"kind": column.kind, **fields}


def column_from_dict(value: dict[str, Any]) -> Column:
    """The inverse of `column_to_dict`. Raises KeyError or TypeError where the value is no fitted column."""
    fields = {
        name: tuple(v) if isinstance(v, list) else v for name, v in value.items() if name != "kind"
    }
    return _KINDS[value["kind"]](**fields)
