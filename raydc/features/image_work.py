"""Work of decoding an image, counted from its head before it is decoded. Used with `images`.

A few bytes may claim much work inside any limit of size: a progressive JPEG may repeat thousands of
scans over all its pixels, and a tile of a TIFF may be larger than the picture.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

# Encoders write about ten scans, which count once.
_SCANS_COUNTED_ONCE = 16
_START_OF_SCAN = b"\xff\xda"
# PIL decodes these in Python, some tens of times slower than others.
_SLOW_DECODERS = ("ppm", "ppm_plain", "bmp_rle")
_SLOWER = 32
_TILE_WIDTH, _TILE_HEIGHT = 322, 323


def count_decoded_pixels(image: Image.Image) -> int:
    """Counts the pixels that decoding an opened file costs, at least its height times its width.

    A JPEG counts once for every 16 of its scans, a TIFF with its whole tiles, and formats that PIL
    decodes in Python 32 times.
    """
    num_pixels = int(image.width * image.height)
    if image.format in ("JPEG", "MPO"):
        content: bytes = image.fp.getvalue()  # type: ignore[attr-defined]
        # In compressed data a 0xff is followed by a zero or a restart mark, so these are scans.
        num_scans = content.count(_START_OF_SCAN)
        return num_pixels * max(1, math.ceil(num_scans / _SCANS_COUNTED_ONCE))
    if image.format == "TIFF":
        return max(num_pixels, _count_tiles(image, getattr(image, "tag_v2", {})))
    decoders = {entry[0] for entry in getattr(image, "tile", [])}
    return num_pixels * (_SLOWER if decoders & {*_SLOW_DECODERS} else 1)


def _count_tiles(image: Image.Image, tags: Any) -> int:
    width, height = tags.get(_TILE_WIDTH), tags.get(_TILE_HEIGHT)
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        return 0
    num_tiles = math.ceil(image.width / width) * math.ceil(image.height / height)
    return num_tiles * width * height
