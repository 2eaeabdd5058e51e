"""Random changes of training images, as a function of (seed, epoch, row id). Runs in each worker.

A row therefore looks the same on any worker, in any batch and after any number of restarts, and
different in the next epoch. Validation and serving do not use this.

Shape suffixes: B rows, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from raydc import order
from raydc.errors import Problem, SpecError
from raydc.features import Inputs, Record, Signature
from raydc.loop.mixing import make_mixer
from raydc.loop.row_draws import RowDraws
from raydc.loop.transforms import Chain, make_chain, try_chain
from raydc.spec.augmentation import Augment
from raydc.spec.data import Data

Pixels = npt.NDArray[np.uint8]
# Mixed into the seed, so that these draws are independent of the order of rows, which is computed
# from the same seed and epoch.
_STREAM = 0xA0761D6478BD642F
# A second stream for the transforms, of which a row may draw any number.
_TRANSFORM_STREAM = 0xE7037ED1A0B428DB


@dataclass(frozen=True)
class Augmenter:
    """Changes the images of a batch.

    Attributes:
        seed: Seed of the run, from which the changes are drawn.
        crop_padding: Pixels of black border around an image, from which a window of the image's
            size is cut; 0 cuts nothing.
        horizontal_flip: Whether half of the images are mirrored left to right.
        chain: Transforms that come after both; None for no more changes.
        images: Fields of a record that are images. Those of one row are changed alike.
    """

    seed: int
    crop_padding: int
    horizontal_flip: bool
    chain: Chain | None = None
    images: tuple[str, ...] = ()

    def change_rows(self, epoch: int, ids_B: order.Ids, x: Inputs) -> Inputs:
        """Returns rows with changed copies of their images.

        Args:
            epoch: Epoch, from 0.
            ids_B: int64 [B], row ids.
            x: Images [B, C, H, W], or a record with the fields `images`.
        """
        if not isinstance(x, Record):
            return self(epoch, ids_B, x)
        changed = {name: self(epoch, ids_B, np.asarray(x.fields[name])) for name in self.images}
        return replace(x, fields={**x.fields, **changed})

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
        if self.chain is not None:
            self._transform(self.chain, images_BCHW, ids_B, epoch)
        return images_BCHW

    def _transform(self, chain: Chain, images_BCHW: Pixels, ids_B: order.Ids, epoch: int) -> None:
        """Applies the transforms to each image by itself, in place."""
        keys_B = order.draw(ids_B, self.seed ^ _TRANSFORM_STREAM, epoch) >> np.uint64(1)
        with RowDraws() as draws:
            for row, key in enumerate(keys_B.tolist()):
                draws.start_row(key)
                # A copy with its own memory: the last bits of a sum may depend on the alignment.
                image_CHW = torch.tensor(images_BCHW[row])
                images_BCHW[row] = chain(image_CHW, draws).numpy()

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
        SpecError: The rows are not images, the images are smaller than the padding, or there is no
            such transform.
    """
    if section is None or not (
        section.crop_padding or section.horizontal_flip or section.transforms
    ):
        return None
    shapes = _image_shapes(signature)
    if not shapes:
        rows = (
            f"vectors of {signature.shape[0]} numbers"
            if signature.kind == "vector"
            else f"records of {', '.join(signature.fields)}"
        )
        message = f"it changes images, but the rows are {rows}; leave it out"
        raise _spec_error("data.augment", message)
    for _, height, width in shapes.values():
        # Beyond this a window could show nothing but the border.
        if section.crop_padding >= min(height, width):
            raise _spec_error(
                "data.augment.crop_padding",
                f"padding of {section.crop_padding} pixels is too large for images of "
                f"{height}x{width}; give at most {min(height, width) - 1}",
            )
    chain = make_chain(section.transforms) if section.transforms else None
    images = tuple(shapes) if signature.kind == "record" else ()
    return Augmenter(seed, section.crop_padding, section.horizontal_flip, chain, images)


def _image_shapes(signature: Signature) -> dict[str, tuple[int, ...]]:
    """[C, H, W] of each image of a row, by the name of its field; empty if there is none."""
    if signature.kind == "record":
        return {name: one.shape for name, one in signature.fields.items() if one.mean}
    return {"image": signature.shape} if signature.kind == "image" else {}


def check_augment(section: Augment | None, signature: Signature, seed: int) -> None:
    """Checks what `make_augmenter` and `make_mixer` do, and tries the transforms on some images.

    Args:
        section: Section `data.augment` of a spec; None if it has none.
        signature: Signature of the rows, which tells what fields are images.
        seed: Seed of the run, from which the changes are drawn.

    Raises:
        SpecError: The section does not fit the rows.
    """
    make_mixer(section, signature, seed)
    augmenter = make_augmenter(section, signature, seed)
    if augmenter is not None and augmenter.chain is not None:
        for shape in _image_shapes(signature).values():
            try_chain(augmenter.chain, shape)


def check_names(data: Data) -> None:
    """Refuses transforms that do not exist or refuse their options, before there is any data.

    They are tried if the size of the images is known.

    Args:
        data: Section `data` of a spec.

    Raises:
        SpecError: There is no such transform, or it does not fit.
    """
    if data.augment is None or not data.augment.transforms:
        return
    chain, options = make_chain(data.augment.transforms), data.features
    if options.image_size and options.image_channels:
        try_chain(chain, (options.image_channels, *options.image_size))


def _spec_error(path: str, message: str) -> SpecError:
    return SpecError([Problem("", path, message)])
