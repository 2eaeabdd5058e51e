"""Random changes of training images, as a function of (seed, epoch, row id). Runs in each worker.

A row therefore looks the same on any worker, in any batch and after any number of restarts, and
different in the next epoch. Validation and serving do not use this.

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
# Mixed into the seed, so that these draws are independent of the order of rows, which is computed
# from the same seed and epoch.
_STREAM = 0xA0761D6478BD642F


@dataclass(frozen=True)
class Augmenter:
    """Changes the images of a batch.

    Attributes:
        seed: Seed of the run.
        crop_padding: Pixels of black border around an image, from which a window of the image's
            size is cut; 0 cuts nothing.
        horizontal_flip: Whether half of the images are mirrored left to right.
    """

    seed: int
    crop_padding: int
    horizontal_flip: bool

    def __call__(self, epoch: int, ids_B: order.Ids, x_BCHW: Pixels) -> Pixels:
        """Returns changed copies of images.

        Args:
            epoch: Epoch, from 0; each one changes the images differently.
            ids_B: int64 [B], row ids, from which the changes are drawn.
            x_BCHW: uint8 [B, C, H, W], images as stored.
        """
        draws_B = order.draw(ids_B, self.seed ^ _STREAM, epoch)
        images_BCHW = self._crop(x_BCHW, draws_B)
        if self.horizontal_flip:
            # The highest of the 64 bits; the window takes bits 0 to 47.
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
        # [B, C, 2 * pad + 1, 2 * pad + 1, H, W], a view; indexing copies one window of each image.
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        num_places = np.uint64(2 * pad + 1)
        top_B, left_B = _below(draws_B, 0, num_places), _below(draws_B, 24, num_places)
        return windows[np.arange(num_rows), :, top_B, left_B]


def _below(draws_B: npt.NDArray[np.uint64], shift: int, limit: np.uint64) -> order.Ids:
    """Whole numbers in [0, limit), from the 24 bits that start at `shift`."""
    # Multiply and shift (Lemire, 2019): no division, and a bias below 2**-24 times the limit.
    bits = (draws_B >> np.uint64(shift)) & np.uint64(0xFFFFFF)
    return ((bits * limit) >> np.uint64(24)).astype(np.int64)


def make_augmenter(section: Augment | None, signature: Signature, seed: int) -> Augmenter | None:
    """Returns what `data.augment` describes; None if it describes no change.

    Args:
        section: Section `data.augment` of a spec; None if it has none.
        signature: Signature of the rows, which must be images if there is a change.
        seed: Seed of the run, from which each change is drawn.

    Raises:
        SpecError: The rows are not images, or the images are smaller than the padding.
    """
    if section is None or not (section.crop_padding or section.horizontal_flip):
        return None
    if signature.kind != "image":
        numbers = signature.shape[0]
        raise _spec_error(
            "data.augment",
            f"it changes images, but the rows are vectors of {numbers} numbers; leave it out",
        )
    _, height, width = signature.shape
    # Beyond this a window could show nothing but the border.
    if section.crop_padding >= min(height, width):
        raise _spec_error(
            "data.augment.crop_padding",
            f"padding of {section.crop_padding} pixels is too large for images of "
            f"{height}x{width}; give at most {min(height, width) - 1}",
        )
    return Augmenter(seed, section.crop_padding, section.horizontal_flip)


def _spec_error(path: str, message: str) -> SpecError:
    return SpecError([Problem("", path, message)])
