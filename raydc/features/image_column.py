"""The fitted column of images: files, texts and arrays to pixels of one size. Pure.

Shape suffixes: B rows, H W C height, width and channels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, TooManyPixelsError
from raydc.features import images

Values = Sequence[Any] | npt.NDArray[Any]


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
