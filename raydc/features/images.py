"""Images to arrays: decoded, converted and resized alike in preparation and serving.

Used in tasks of Ray Data and in replicas.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from raydc.features import nested
from raydc.features.image_work import (
    SMALL_FILE_BYTES,
    HeadFile,
    check_exif,
    count_decoded_pixels,
)

Pixels = npt.NDArray[np.uint8]  # [H, W, C], C is 1 (grey) or 3 (RGB)

_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F")
# Formats that untrusted bytes may have. PIL knows more, among them EPS, for which it starts
# Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


_ORIENTATION_TAG = 0x0112
# What brings pixels [H, W, C] upright, by the orientation that a camera has noted.
_UPRIGHT: dict[Any, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")


def decode(
    value: Any,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    as_shown: bool = True,
) -> Pixels:
    """Decodes an image to pixels.

    Args:
        value: Bytes of an encoded image (PNG, JPEG and so on), base64 text of such bytes, or an
            array or nested list [H, W] or [H, W, C] of whole numbers from 0 to 255. An animation
            counts as its first picture.
        size: (height, width) to resize to, bilinear and antialiased; None keeps the image's size.
        channels: 1 for grey, 3 for RGB; None keeps the image's channels.
        as_shown: As of `to_pixels`.

    Returns:
        uint8 [H, W, C].

    Raises:
        ValueError: The value is not an image; the message says why.
    """
    return to_pixels(open_image(value), size, channels, as_shown)


def open_image(value: Any, is_limited: bool = False) -> Image.Image | Pixels:
    """Opens an image, so that its size is known, without decoding it.

    Args:
        value: Image in any of the forms of `decode`.
        is_limited: Whether to refuse a file that takes more work before its pixels than ordinary
            ones do, see `image_work`.

    Returns:
        An image of PIL whose pixels are not read yet; or pixels, if they were given as numbers.

    Raises:
        ValueError: The value is not an image; the message says why.
    """
    if not isinstance(value, bytes | bytearray | memoryview | str):
        return _from_array(value)
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"not base64 text: {error}") from error
    try:
        if not is_limited or len(value) <= SMALL_FILE_BYTES:
            return Image.open(io.BytesIO(value), formats=_FORMATS)
        file = HeadFile(value)
        image = Image.open(file, formats=_FORMATS)
        file.end_limits()
        check_exif(image)
        return image
    except UnidentifiedImageError as error:
        raise ValueError(f"not an image of a known format ({', '.join(_FORMATS)})") from error
    except Exception as error:  # PIL's plugins raise errors of any type on a broken file.
        raise ValueError(str(error) or type(error).__name__) from error


def count_pixels(image: Image.Image | Pixels) -> int:
    """Pixels that an image of `open_image` costs to decode, at least its height times width."""
    if isinstance(image, np.ndarray):
        return int(image.shape[0] * image.shape[1])
    return count_decoded_pixels(image)


def to_pixels(
    image: Image.Image | Pixels,
    size: tuple[int, int] | None,
    channels: int | None,
    as_shown: bool = True,
) -> Pixels:
    """Decodes an opened image, and brings it to a size and channels.

    Args:
        image: As `open_image` returns it.
        size: (height, width) to resize to; None keeps the image's size.
        channels: 1 for grey, 3 for RGB; None keeps the image's channels.
        as_shown: Whether a file becomes what a viewer shows: turned upright, and white where it is
            transparent. Otherwise both are ignored, as raydc did at first.

    Returns:
        uint8 [H, W, C].

    Raises:
        ValueError: The file is damaged, or its pixels have more than 16 bits.
    """
    pixels = image if isinstance(image, np.ndarray) else _load(image, as_shown)
    # Grey before the resize, which then has a third of the work; RGB after it, for the same reason.
    if channels == 1 and pixels.shape[2] == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    if size is not None and pixels.shape[:2] != size:
        pixels = _resize(pixels, size)
    return to_channels(pixels, channels)


def to_channels(pixels: Pixels, channels: int | None) -> Pixels:
    """Widens grey to RGB if `channels` is 3: the same value in three channels."""
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels


def histogram(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Counts the values of each channel.

    Args:
        pixels: uint8 [H, W, C].

    Returns:
        int64 [C, 256], as `np.bincount` would count them, in a third of its time.
    """
    return np.array(_image_of(pixels).histogram(), np.int64).reshape(pixels.shape[2], 256)


def _image_of(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def encode_png(pixels: Pixels) -> str:
    """Encodes pixels as base64 text of a PNG, the lossless form of an image in a JSON row."""
    image = _image_of(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _load(image: Image.Image, as_shown: bool) -> Pixels:
    grey = image.mode in _GREY_MODES
    is_deep = grey and image.mode not in ("1", "L", "LA", "La")
    try:
        image.load()
        # A TIFF file is upright already when it is loaded, and its orientation is gone.
        turn = _UPRIGHT.get(_orientation(image)) if as_shown else None
        if as_shown and _is_transparent(image):
            image = _on_white(image)
        values = np.asarray(image if is_deep else image.convert("L" if grey else "RGB"))
    except Exception as error:  # As in `open_image`; many files show their faults only here.
        raise ValueError(str(error) or type(error).__name__) from error
    pixels = _from_deep_grey(values) if is_deep else values[:, :, None] if grey else values
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _orientation(image: Image.Image) -> Any:
    # Viewers show an image whose EXIF data is damaged, and so do we.
    with contextlib.suppress(Exception):
        return image.getexif().get(_ORIENTATION_TAG)
    return None


def _is_transparent(image: Image.Image) -> bool:
    has_mask = image.mode in ("P", "L", "1", "RGB") and "transparency" in image.info
    return has_mask or image.mode in _ALPHA_MODES


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


def _from_deep_grey(values: npt.NDArray[Any]) -> Pixels:
    # The upper eight bits are kept: PIL clips 16-bit grey at 255 instead of scaling it.
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("a grey image with more than 16 bits per pixel")
    return (values.astype(np.uint32) >> 8).astype(np.uint8)[:, :, None]


def _from_array(value: Any) -> Pixels:
    pixels = _from_grey_lists(value)
    if pixels is not None:
        return pixels
    array = nested.to_array(value)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.size == 0:
        raise ValueError(f"shape {array.shape} is not [H, W], [H, W, 1] or [H, W, 3]")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise ValueError("its values are not numbers")
    if not bool(((array >= 0) & (array <= 255) & (array == np.floor(array))).all()):
        raise ValueError("its values are not whole numbers from 0 to 255")
    return array.astype(np.uint8)


def _from_grey_lists(value: Any) -> Pixels | None:
    """Converts lists [H][W] of ints from 0 to 255; None for anything else.

    It is several times faster than an array of 64-bit numbers that is checked and cast.
    """
    # `bytes` of a number would be as many zeros, so all rows must be lists.
    if not isinstance(value, list) or set(map(type, value)) != {list}:
        return None
    width = len(value[0])
    if width == 0 or set(map(len, value)) != {width}:
        return None
    # `bytes` itself refuses numbers out of range, floats and text.
    try:
        content = b"".join(map(bytes, value))
    except (TypeError, ValueError):
        return None
    return np.frombuffer(content, dtype=np.uint8).reshape(len(value), width, 1)


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    resized = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return resized[:, :, None] if resized.ndim == 2 else resized
