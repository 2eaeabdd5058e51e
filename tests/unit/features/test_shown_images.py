"""Photographs that were taken sideways and images that are transparent, as a viewer shows them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageOps

from raydc.features import Features, Image, Signature, images

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def _file(
    image: PilImage.Image, kind: str, orientation: int | None = None, **options: Any
) -> bytes:
    buffer, exif = io.BytesIO(), PilImage.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_is_turned_as_every_viewer_does(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = _file(PilImage.fromarray(PIXELS), kind, orientation, **options)
    shown = np.asarray(ImageOps.exif_transpose(PilImage.open(io.BytesIO(content))))
    np.testing.assert_array_equal(images.decode(content), shown)
    assert shown.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "1", "LA"])
def test_grey_photograph_is_turned_too(mode: str) -> None:
    image = PilImage.fromarray(PIXELS[:, :, 0]).convert(mode if mode != "I;16" else "L")
    if mode == "I;16":
        image = PilImage.fromarray(PIXELS[:, :, 0].astype(np.uint16) << 8)
    flat, turned = (images.decode(_file(image, "PNG", number)) for number in (1, 6))
    np.testing.assert_array_equal(turned, np.rot90(flat, -1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_without_a_meaning_changes_nothing(orientation: int) -> None:
    content = _file(PilImage.fromarray(PIXELS), "PNG", orientation)
    np.testing.assert_array_equal(images.decode(content), PIXELS)


def test_damaged_exif_data_changes_nothing() -> None:
    content = _file(PilImage.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffbroken")
    np.testing.assert_array_equal(
        images.decode(content), images.decode(_file(PilImage.fromarray(PIXELS), "JPEG"))
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_and_half_of_them_are_between(mode: str) -> None:
    grey = np.zeros((1, 3, 4), dtype=np.uint8)
    grey[0, :, 3] = (0, 255, 127)
    image = PilImage.fromarray(grey).convert("RGBA" if mode == "P" else mode)
    if mode == "P":
        # A palette knows only transparent and not.
        image = image.convert("P")
        image.putpixel((0, 0), 7)
        content = _file(image, "GIF", transparency=7)
        assert images.decode(content)[0, :2].max(axis=1).tolist() == [255, 0]
        return
    decoded = images.decode(_file(image, "PNG"))
    assert decoded.shape[2] == (1 if mode == "LA" else 3)
    assert decoded[0, :, 0].tolist() == [255, 0, 128]
    # At first raydc cut the mask off, and what was below it showed.
    assert not images.decode(_file(image, "PNG"), as_shown=False).any()


def test_opaque_image_with_a_mask_keeps_its_pixels() -> None:
    image = PilImage.fromarray(PIXELS).convert("RGBA")
    np.testing.assert_array_equal(images.decode(_file(image, "PNG")), PIXELS)


def test_features_of_an_older_raydc_keep_their_pixels_and_their_hash() -> None:
    signature = Signature("image", (3, 4, 6), "uint8", (), (), "classification", ("a", "b"))
    content = _file(PilImage.fromarray(PIXELS), "PNG", 3)
    for as_shown in (False, True):
        features = Features(signature, "label", {"image": Image(4, 6, 3, as_shown)})
        stored = features.to_dict()
        assert stored["columns"][0].get("as_shown", False) is as_shown
        assert ("as_shown" in stored["columns"][0]) is as_shown
        restored = Features.from_dict(stored)
        assert (restored, restored.hash) == (features, features.hash)
        assert restored.shows_images is as_shown
        x = restored.apply({"image": [content]})
        expected = PIXELS[::-1, ::-1] if as_shown else PIXELS
        np.testing.assert_array_equal(x[0].transpose(1, 2, 0), expected)
