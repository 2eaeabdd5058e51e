"""Random changes of training images, as a function: what happens to a row follows from (seed, epoch, row id) alone.

So a row looks the same on whichever worker, in whichever batch and after however many restarts it is trained on, and
different in the next epoch. Validation and serving never come by here.

Shape suffixes: B rows, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydc import order
from raydc.errors import Problem, SpecError
from raydc.features import Signature
from raydc.spec.data import Augment

Pixels = npt.NDArray[np.uint8]
# Apart from the order of rows, which mixes the same seed and epoch.
_STREAM = 0xA0761D6478BD642F


@dataclass(frozen=True)
class Augmenter:
    """Changes the images of a batch.

    Attributes:
        seed: Of the run.
        crop_padding: Black pixels around an image, of which a window of its size is kept.
        horizontal_flip: Mirror every other image, left to right.
    """

    seed: int
    crop_padding: int
    horizontal_flip: bool

    def __call__(self, epoch: int, ids_B: order.Ids, x_BCHW: Pixels) -> Pixels:
        """New images; those given are not changed.

        Args:
            epoch: From 0.
            ids_B: int64 [B], row ids.
            x_BCHW: uint8 [B, C, H, W], as stored.
        """
        draws_B = order.draw(ids_B, self.seed ^ _STREAM, epoch)
        images_BCHW = self._crop(x_BCHW, draws_B)
        if self.horizontal_flip:
            mirrored_B = (draws_B >> np.uint64(63)).astype(bool)
            images_BCHW[mirrored_B] = images_BCHW[mirrored_B][..., ::-1]
        return images_BCHW

    def _crop(self, x_BCHW: Pixels, draws_B: npt.NDArray[np.uint64]) -> Pixels:
        pad = self.crop_padding
        if not pad:
            return x_BCHW.copy()
        num_rows, channels, height, width = x_BCHW.shape
        padded = np.zeros(
            (num_rows, channels, height + 2 * pad, width + 2 * pad), dtype=x_BCHW.dtype
        )
        padded[:, :, pad : pad + height, pad : pad + width] = x_BCHW
        # [B, C, 2 * pad + 1, 2 * pad + 1, H, W] without a copy; one window of each image is then taken.
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        places = np.uint64(2 * pad + 1)
        top_B, left_B = _below(draws_B, 0, places), _below(draws_B, 24, places)
        return windows[np.arange(num_rows), :, top_B, left_B]


def _below(draws_B: npt.NDArray[np.uint64], shift: int, limit: np.uint64) -> order.Ids:
    """Whole numbers in [0, limit), from 24 of the 64 bits."""
    bits = (draws_B >> np.uint64(shift)) & np.uint64(0xFFFFFF)
    return ((bits * limit) >> np.uint64(24)).astype(np.int64)


def make(section: Augment | None, signature: Signature, seed: int) -> Augmenter | None:
    """What `data.augment` asks for; None where it asks for nothing.

    Args:
        section: Of a spec.
        signature: Of the rows.
        seed: Of the run.

    Raises:
        SpecError: The rows are no images, or smaller than the padding.
    """
    if section is None or not (section.crop_padding or section.horizontal_flip):
        return None
    if signature.kind != "image":
        numbers = signature.shape[0]
        raise _fault(
            "data.augment",
            f"it changes images, but the rows are vectors of {numbers} numbers; leave it out",
        )
    _, height, width = signature.shape
    if section.crop_padding >= min(height, width):
        message = f"{section.crop_padding} pixels push images of {height}x{width} out of sight"
        raise _fault(
            "data.augment.crop_padding", f"{message}; give at most {min(height, width) - 1}"
        )
    return Augmenter(seed, section.crop_padding, section.horizontal_flip)


def _fault(path: str, message: str) -> SpecError:
    return SpecError([Problem("", path, message)])
