"""Images to pixels and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fitted import make_png
from PIL import Image as PilImage

from raydc.features import images


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)]
)
def test_decode_keeps_the_channels_of_an_image(mode: str, channels: int) -> None:
    assert images.decode(make_png(np.zeros((5, 4, 3)), mode)).shape == (5, 4, channels)


def test_decode_scales_deep_grey_instead_of_clipping_it() -> None:
    buffer = io.BytesIO()
    PilImage.fromarray(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)).save(buffer, format="PNG")
    assert images.decode(buffer.getvalue())[0, :, 0].tolist() == [0, 0x80, 0xFF]


def test_encode_png_is_lossless() -> None:
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
        np.testing.assert_array_equal(images.decode(images.encode_png(pixels)), pixels)
