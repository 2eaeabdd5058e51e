"""Files that are small and legal, and would take minutes to decode, are refused before that."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage

from raydc.errors import DataError, TooManyPixelsError
from raydc.features import Image, images
from raydc.features.image_work import SMALL_FILE_BYTES, HeadFile, HeadTooLongError


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


# Heads that are cut into pieces -------------------------------------------------------------------


def in_front(content: bytes, piece: bytes, count: int, start: int) -> bytes:
    return content[:start] + piece * count + content[start:]


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def exif_of(num_entries: int, num_bytes: int) -> bytes:
    """A directory whose entries all name the same bytes."""
    head = b"MM\0*\0\0\0\x08" + struct.pack(">H", num_entries)
    entries = [struct.pack(">HHII", 1 + i, 7, num_bytes - 100, 50) for i in range(num_entries)]
    return (head + b"".join(entries)).ljust(num_bytes, b"\0")


def tiff_of(num_entries: int) -> bytes:
    """A TIFF of 8x8 pixels with many tags that mean nothing."""
    values = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    values |= {40000 + index: 1 for index in range(num_entries)}
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + bytes(4)


def segments_of(exif: bytes) -> bytes:
    parts = [exif[start : start + 60_000] for start in range(0, len(exif), 60_000)]
    return b"".join(segment(0xE1, b"Exif\0\0" + part) for part in parts)


def as_text(exif: bytes) -> bytes:
    text = (b"Exif\0\0" + exif).hex()
    lines = "\n".join(text[start : start + 72] for start in range(0, len(text), 72))
    content = f"\nexif\n{len(exif)}\n{lines}".encode()
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(content))


JPEG, PNG = saved(NOISE, format="JPEG"), saved(NOISE, format="PNG")
GIF = saved(NOISE[:, :, 0], format="GIF")
GIF_HEAD = 13 + 3 * 256
MANY, LONG_EXIF = 5000, exif_of(100, 200_000)
CUT_UP = {
    "JPEG comments": in_front(JPEG, segment(0xFE, b""), MANY, 2),
    "JPEG fill bytes": in_front(JPEG, b"\xff", MANY, 2),
    "JPEG EXIF in pieces": in_front(JPEG, segment(0xE1, b"Exif\0\0MM\0*"), MANY, 2),
    "JPEG EXIF in segments": in_front(JPEG, segments_of(LONG_EXIF), 1, 2),
    "PNG chunks": in_front(PNG, chunk(b"prVt", b""), MANY, 33),
    "PNG EXIF": in_front(PNG, chunk(b"eXIf", LONG_EXIF), 1, 33),
    "PNG EXIF as text": in_front(PNG, as_text(LONG_EXIF), 1, 33),
    "GIF comments": in_front(GIF, b"\x21\xfe\x01a\0", MANY, GIF_HEAD),
    "GIF comment in pieces": in_front(GIF, b"\x21\xfe" + b"\x01a" * MANY + b"\0", 1, GIF_HEAD),
    "PGM comments": in_front(b"P5 8 8 255\n" + bytes(64), b"#\n" * MANY, 1, 3),
    "TIFF tags": tiff_of(MANY),
}


@pytest.mark.parametrize("content", CUT_UP.values(), ids=list(CUT_UP))
def test_file_whose_head_takes_long_is_refused(content: bytes) -> None:
    images.open_image(content)
    with pytest.raises(DataError, match=r"pieces before|EXIF data has"):
        COLUMN.apply([content], "image", max_pixels=64 * 1024 * 1024)


def test_same_bytes_are_not_read_again_and_again() -> None:
    file = HeadFile(bytes(100_000))

    def read_all() -> None:
        file.seek(0)
        file.read()

    for _ in range(4):
        read_all()
    with pytest.raises(HeadTooLongError, match="the same bytes"):
        read_all()
    file.end_limits()
    read_all()


def test_comments_between_plain_pixels_count() -> None:
    plain = b"P2 64 64 1 " + b"#\n" * 1000 + b"0 " * 64 * 64
    with pytest.raises(TooManyPixelsError):
        COLUMN.apply([plain], "image", max_pixels=1024 * 1024)


def test_bytes_that_make_no_pixel_count() -> None:
    runs = b"\0\0" * 500_000
    head = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, len(runs), 0, 0, 256, 0) + bytes(1024)
    content = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(runs), 0, 0, 14 + len(head))
    with pytest.raises(TooManyPixelsError):
        COLUMN.apply([content + head + runs], "image", max_pixels=1024 * 1024)


def test_pieces_beyond_those_of_ordinary_heads_count() -> None:
    def num_pixels(num_comments: int) -> int:
        content = in_front(JPEG, segment(0xFE, b""), num_comments, 2)
        return images.count_pixels(images.open_image(content, is_limited=True))

    assert num_pixels(50) == num_pixels(0) == 64 * 64
    assert num_pixels(1000) > 10 * 64 * 64


def with_exif(file_format: str, orientation: int) -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a comment " * 2000
    return saved(NOISE, format=file_format, exif=exif)


FORMATS = [
    *(with_exif(name, turn) for name in ("JPEG", "PNG", "WEBP", "TIFF") for turn in range(1, 9)),
    *(saved(NOISE, format=name) for name in ("BMP", "PPM", "TIFF", "GIF")),
    saved(NOISE, format="JPEG", progressive=True, comment=b"by hand " * 4000),
    saved(NOISE, format="TIFF", compression="tiff_lzw"),
    saved(NOISE, format="WEBP", lossless=True),
    saved(np.dstack([NOISE, NOISE[:, :, :1]]), format="PNG"),
]


@pytest.mark.parametrize("content", FORMATS)
def test_limits_do_not_change_a_pixel(content: bytes) -> None:
    def pixels(is_limited: bool) -> np.ndarray:
        return images.to_pixels(images.open_image(content, is_limited), None, None)

    assert len(content) > SMALL_FILE_BYTES
    assert np.array_equal(pixels(True), pixels(False))
