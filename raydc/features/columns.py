"""Fitted columns: each turns raw values into inputs of the network.

Pure; used in tasks of Ray Data, the driver and replicas.

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
from raydc.spec.label_text import find_position, positions_of

Values = Sequence[Any] | npt.NDArray[Any]


def is_missing(value: Any, missing_values: frozenset[str]) -> bool:
    """Whether a raw value is missing.

    Args:
        value: A raw value of any type.
        missing_values: Strings that mean "missing".
    """
    if isinstance(value, str):
        return value in missing_values
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def numbers(
    values: Values, column: str, missing_values: frozenset[str] = frozenset()
) -> npt.NDArray[np.float64]:
    """Reads raw values of a numeric column as numbers.

    Args:
        values: Raw values of B rows.
        column: Name of the column, for messages.
        missing_values: Strings that mean "missing".

    Returns:
        float64 [B], NaN for a missing value.

    Raises:
        DataError: A value is not a finite number; the message names its row and column.
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
        # Text of a number counts as a number, as in a CSV file. `float` also takes True and 1_000,
        # which preparation does not.
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
    """One input, (value - shift) / scale.

    Attributes:
        mean: Mean of the training rows, which replaces a missing value.
        shift: Subtracted from each value.
        scale: Divisor applied after the shift; not 0.
    """

    mean: float
    shift: float
    scale: float
    kind: ClassVar[str] = "numeric"

    @property
    def num_inputs(self) -> int:
        """Inputs of the network for this column."""
        return 1

    def apply(
        self, values: Values, column: str, missing_values: frozenset[str]
    ) -> npt.NDArray[np.float32]:
        """Turns raw values into inputs.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            float32 [B, 1].

        Raises:
            DataError: A value is not a number, or float32 cannot hold its input.
        """
        numbers_B = numbers(values, column, missing_values)
        numbers_B[np.isnan(numbers_B)] = self.mean
        # Overflow is found below, with its row.
        with np.errstate(over="ignore"):
            scaled_B = ((numbers_B - self.shift) / self.scale).astype(np.float32)
        if np.isinf(scaled_B).any():
            row = int(np.flatnonzero(np.isinf(scaled_B))[0])
            raise DataError(f"rows[{row}].{column}: {float(numbers_B[row])} is too large")
        return scaled_B[:, None]


@dataclass(frozen=True)
class Categorical:
    """One input per category, and one each for other and for missing values.

    A value without an input gives zeros: an input that was never 1 in training would have an
    untrained weight.

    Attributes:
        categories: Categories with their own input, the most frequent one first.
        has_other: Whether training rows had further categories, which share an input.
        has_missing: Whether training rows had missing values, which have an input.
    """

    categories: tuple[str, ...]
    has_other: bool
    has_missing: bool
    kind: ClassVar[str] = "categorical"

    @property
    def num_inputs(self) -> int:
        """Inputs of the network for this column, W."""
        return len(self.categories) + self.has_other + self.has_missing

    @cached_property
    def _position(self) -> dict[str, int]:
        return positions_of(self.categories)

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
        # Position of the input in each case; -1 means that the row gets none.
        num_known = len(self.categories)
        other = num_known if self.has_other else -1
        missing = num_known + self.has_other if self.has_missing else -1
        position, slots = self._position, np.empty(len(values), dtype=np.int64)
        # A value may be of any type, so the loop cannot be vectorised without casting to text.
        for row, value in enumerate(values):
            if is_missing(value, missing_values):
                slots[row] = missing
            elif isinstance(value, str | bool | int | float | np.generic):
                known = find_position(position, value)
                slots[row] = other if known is None else known
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
    """An image of a fixed size.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        channels: 1 for grey, 3 for RGB.
        as_shown: Whether files become what a viewer shows (see `images.to_pixels`). Features of an
            older raydc lack it: their data was prepared without.
    """

    height: int
    width: int
    channels: int
    as_shown: bool = False
    kind: ClassVar[str] = "image"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a stored image, (C, H, W)."""
        return self.channels, self.height, self.width

    def apply(
        self, values: Values, column: str, max_pixels: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decodes images and brings them to this size.

        Args:
            values: Arrays, files or texts (see `images.decode`); or one uint8 array [B, H, W] or
                [B, H, W, C].
            column: Name of the column, for messages.
            max_pixels: Maximum number of pixels to decode for all values together; None means any
                number. A file counts, before it is decoded, with the pixels of the result or
                those of `image_work.count_decoded_pixels`.

        Returns:
            uint8 [B, C, H, W].

        Raises:
            DataError: A value is missing or no image; the message names its row and column.
            TooManyPixelsError: The images have more than `max_pixels`.
        """
        if isinstance(values, np.ndarray) and values.dtype == np.uint8 and self._fits(values):
            # Preparation passes whole blocks of one size, which need no work per image.
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
                image = images.open_image(value, is_limited=max_pixels is not None)
                num_pixels += max(images.count_pixels(image), self.height * self.width)
                if max_pixels is not None and num_pixels > max_pixels:
                    raise TooManyPixelsError(
                        f"rows[{row}].{column}: with this image there are {num_pixels} pixels to "
                        f"decode, at most {max_pixels} are allowed"
                    )
                pixels_HWC = images.to_pixels(
                    image, (self.height, self.width), self.channels, self.as_shown
                )
            except ValueError as error:
                raise DataError(f"rows[{row}].{column}: not a readable image: {error}") from error
            decoded.append(pixels_HWC.transpose(2, 0, 1))
        # Most requests have one image, for which `stack` would take longer than all other steps.
        if len(decoded) == 1:
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
    """Plain JSON values, which `column_from_dict` reads."""
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(column).items()}
    # Left out where it is false, so that features of an older raydc keep their hash.
    if not fields.get("as_shown"):
        fields.pop("as_shown", None)
    return {"kind": column.kind, **fields}


def column_from_dict(value: dict[str, Any]) -> Column:
    """The inverse of `column_to_dict`. Raises KeyError or TypeError for any other value."""
    fields = {
        name: tuple(v) if isinstance(v, list) else v for name, v in value.items() if name != "kind"
    }
    return _KINDS[value["kind"]](**fields)
