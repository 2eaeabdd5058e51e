"""Files that are small and legal, and would take minutes to decode, are refused before that."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage

from raydc.errors import TooManyPixelsError
from raydc.features import Image, images


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def repeated_scans(side: int, num_scans: int) -> bytes:
    """A progressive JPEG of one grey, whose last scan is repeated; each goes over all blocks."""
    num_blocks = (side // 8) ** 2
    head = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
    head += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    head += segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
    head += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\x00")
    first = segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])) + bytes(num_blocks // 8 + 1)
    other = segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x00])) + bytes(num_blocks // 8 + 1)
    return head + first + other * (num_scans - 1) + b"\xff\xd9"


def large_tile(tile: int) -> bytes:
    """A TIFF of 8x8 pixels in one tile."""
    content = zlib.compress(bytes(tile * tile))
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile), (323, tile), (324, 8 + 2 + 12 * 10 + 4), (325, len(content))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


def saved(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
COLUMN = Image(8, 8, 1)


@pytest.mark.parametrize(
    ("content", "num_pixels"),
    [
        (saved(NOISE, format="JPEG"), 64 * 64),
        (saved(NOISE, format="JPEG", progressive=True), 64 * 64),
        (saved(NOISE, format="PNG"), 64 * 64),
        (saved(NOISE, format="TIFF"), 64 * 64),
        (saved(NOISE, format="BMP"), 64 * 64),
        (repeated_scans(64, 16), 64 * 64),
        (repeated_scans(64, 17), 2 * 64 * 64),
        (repeated_scans(64, 1600), 100 * 64 * 64),
        (large_tile(512), 512 * 512),
        (b"P2 64 64 1 " + b"0 " * 64 * 64, 32 * 64 * 64),
    ],
)
def test_pixels_count_as_often_as_they_are_decoded(content: bytes, num_pixels: int) -> None:
    assert images.count_pixels(images.open_image(content)) == num_pixels


@pytest.mark.parametrize("content", [repeated_scans(64, 1600), large_tile(512)])
def test_hostile_picture_is_refused_before_it_is_decoded(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COLUMN.apply([content], "image").shape == (1, 1, 8, 8), "it is a legal picture"

    def decoded(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(images, "to_pixels", decoded)
    with pytest.raises(TooManyPixelsError, match=r"rows\[0\].image: with this image there are"):
        COLUMN.apply([content], "image", max_pixels=16 * 64 * 64)
