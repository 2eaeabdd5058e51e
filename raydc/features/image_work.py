"""Work of decoding an image, counted before it is decoded. Used with `images`.

A few bytes may claim much work inside any limit of size: a progressive JPEG may repeat thousands of
scans over all its pixels, a tile of a TIFF may be larger than the picture, and what comes before
the pixels may be cut into hundreds of thousands of pieces, which PIL reads in Python and appends to
each other.
"""

from __future__ import annotations

import io
import math
from typing import Any

from PIL import Image

# Encoders write about ten scans, which count once.
_SCANS_COUNTED_ONCE = 16
_START_OF_SCAN = b"\xff\xda"
# PIL decodes these in Python, some tens of times slower than others.
_SLOW_DECODERS = ("ppm", "ppm_plain", "bmp_rle")
_SLOWER = 32
# Such a file may hold bytes that make no pixel: runs of no length, for example.
_BYTES_OF_A_SLOW_PIXEL = 4
# For each comment PIL copies the rest of its buffer, up to a megabyte.
_PIXELS_OF_A_COMMENT = 2048
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
# Heads of ordinary files take a few dozen reads, with long comments a few hundred.
_FREE_READS, _MOST_READS = 512, 4096
_PIXELS_OF_A_READ = 32
# Smaller files cannot take much work before their pixels, and the limits cost them a tenth.
SMALL_FILE_BYTES = 1024
# Entries of a directory may all name the same bytes.
_MOST_REREAD = 4
_LEAST_REREAD_BYTES = 64 * 1024
# EXIF data fits one segment of a JPEG. Each of its entries may name all the bytes too.
_MOST_EXIF_BYTES = 64 * 1024
_EXIF = b"Exif\0\0"
_EXIF_AS_TEXT = "Raw profile type exif"
_read = io.BytesIO.read


class HeadTooLongError(ValueError):
    """What comes before the pixels of an image takes more work than ordinary files do."""


class HeadFile(io.BytesIO):
    """A file in memory, of which PIL may read only so much before the pixels.

    Args:
        content: Bytes of the whole file.
    """

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        super().__init__(content)
        self._num_left = _MOST_READS
        self._bytes_left = max(_LEAST_REREAD_BYTES, _MOST_REREAD * len(content))
        self._num_exif_bytes = 0
        self.read = self._read_limited  # type: ignore[method-assign]

    @property
    def num_reads(self) -> int:
        """Reads before the pixels."""
        return _MOST_READS - self._num_left

    def end_limits(self) -> None:
        """Makes reads those of `BytesIO`: what decoding costs is counted otherwise."""
        del self.read

    def _read_limited(self, size: int | None = -1, /) -> bytes:
        content = _read(self, size)
        self._num_left -= 1
        # Most reads are of a few bytes, and there are dozens for each picture.
        if len(content) > len(_EXIF):
            self._bytes_left -= len(content)
            if content.startswith(_EXIF):
                self._num_exif_bytes += len(content)
                _check_exif(self._num_exif_bytes)
            if self._bytes_left < 0:
                raise HeadTooLongError("its head refers to the same bytes again and again")
        if self._num_left < 0:
            raise HeadTooLongError(f"it has more than {_MOST_READS} pieces before its pixels")
        return content


def check_exif(image: Image.Image) -> None:
    """Checks the length of an opened file's EXIF data before it is read.

    Raises:
        HeadTooLongError: It is longer than one segment of a JPEG.
    """
    _check_exif(len(image.info.get("exif") or b""))
    # As hexadecimal text with line breaks.
    _check_exif(len(image.info.get(_EXIF_AS_TEXT) or "") // 2 * 72 // 73)


def _check_exif(num_bytes: int) -> None:
    if num_bytes > _MOST_EXIF_BYTES:
        raise HeadTooLongError(f"its EXIF data has more than {_MOST_EXIF_BYTES} bytes")


def count_decoded_pixels(image: Image.Image) -> int:
    """Counts the pixels that decoding an opened file costs, at least its height times its width.

    A JPEG counts once for every 16 of its scans, a TIFF with its whole tiles, and formats that PIL
    decodes in Python 32 times. Each piece beyond those of ordinary heads counts as well.
    """
    # Only what an endpoint opens is limited.
    num_reads = getattr(getattr(image, "fp", None), "num_reads", 0)
    return _count_file(image) + _PIXELS_OF_A_READ * max(0, num_reads - _FREE_READS)


def _count_file(image: Image.Image) -> int:
    num_pixels = int(image.width * image.height)
    content: bytes
    if image.format in ("JPEG", "MPO"):
        content = image.fp.getvalue()  # type: ignore[attr-defined]
        # In compressed data a 0xff is followed by a zero or a restart mark, so these are scans.
        num_scans = content.count(_START_OF_SCAN)
        return num_pixels * max(1, math.ceil(num_scans / _SCANS_COUNTED_ONCE))
    if image.format == "TIFF":
        return max(num_pixels, _count_tiles(image, getattr(image, "tag_v2", {})))
    decoders = {entry[0] for entry in getattr(image, "tile", [])}
    if not decoders & {*_SLOW_DECODERS}:
        return num_pixels
    content = image.fp.getvalue()  # type: ignore[attr-defined]
    num_comments = content.count(b"#") if "ppm_plain" in decoders else 0
    num_slow = max(num_pixels, len(content) // _BYTES_OF_A_SLOW_PIXEL)
    return _SLOWER * num_slow + _PIXELS_OF_A_COMMENT * num_comments


def _count_tiles(image: Image.Image, tags: Any) -> int:
    width, height = tags.get(_TILE_WIDTH), tags.get(_TILE_HEIGHT)
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        return 0
    num_tiles = math.ceil(image.width / width) * math.ceil(image.height / height)
    return num_tiles * width * height
