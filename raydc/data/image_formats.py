"""Folders of images, IDX files and cells that hold images, decoded to pixels.

Runs in tasks of Ray Data. Decodes through `raydc.features.images`, as the endpoint does, so that
the same file gives the same pixels in training and in serving.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs as pafs

from raydc.data import file_kind, row_faults, values
from raydc.data.layout import SourceFile, first_row_id, name_errors
from raydc.errors import DataError
from raydc.features import images
from raydc.order import Ids

IMAGES_PER_PIECE = 64
_BYTES_PER_TABLE = 16 * 1024 * 1024
UNREADABLE = "not a readable image"
_CUT_OFF = "The file was cut off; download it again."


@dataclass(frozen=True)
class ImageDecoder:
    """Decodes images to one size and number of channels.

    Attributes:
        size: (height, width) to resize to; None keeps the size of each image.
        channels: 1 for grey, 3 for RGB; None keeps the channels of each image.
        as_shown: Whether a file becomes what a viewer shows (see `images.to_pixels`).
        keeps_files: Whether the column keeps each file beside its pixels.
    """

    size: tuple[int, int] | None
    channels: int | None
    as_shown: bool = True
    keeps_files: bool = False

    def decode(self, value: Any) -> images.Pixels:
        """Decodes one image, as `images.decode` takes it. Raises ValueError."""
        return images.decode(value, self.size, self.channels, self.as_shown)

    def decode_cells(
        self,
        name: str,
        column: pa.ChunkedArray,
        ids: Ids,
        describe: Callable[[int], str],
        faults: dict[int, str] | None = None,
    ) -> pa.ChunkedArray:
        """Decodes a column of files, of base64 text, or of Hugging Face's `{bytes, path}`.

        Args:
            name: Name of the column, for messages.
            column: Encoded images, one per row; null cells stay null.
            ids: int64 [B], row ids.
            describe: Names a row by its id, for messages.
            faults: Gets the fault of each cell that cannot be read, by its position; None means
                that the first one is an error.

        Returns:
            A column of `values.IMAGE`.

        Raises:
            DataError: A cell is not a readable image, and `faults` is None.
        """
        pixels: list[images.Pixels | None] = []
        files: list[bytes | None] = []
        for row, (cell, row_id) in enumerate(zip(column.to_pylist(), ids, strict=True)):
            cell = cell["bytes"] if isinstance(cell, dict) else cell
            try:
                pixels.append(None if cell is None else self.decode(cell))
                files.append(_file_of(cell) if self.keeps_files else None)
            except ValueError as error:
                if faults is not None:
                    pixels.append(None)
                    files.append(None)
                    faults[row] = row_faults.cell(name, None, f"{UNREADABLE}: {error}")
                    continue
                place = describe(int(row_id))
                raise DataError(f"{place}: {name}: {UNREADABLE}: {error}") from error
        return pa.chunked_array([values.image_array(pixels, files)])


def _file_of(cell: Any) -> bytes | None:
    """Bytes of a file, which may be base64 text; None for an image that is an array."""
    if isinstance(cell, str):
        return base64.b64decode(cell)
    return cell if isinstance(cell, bytes) else None


def holds_images(column_type: pa.DataType) -> bool:
    """Whether a column holds bytes, plain or as Hugging Face's `{bytes, path}`."""
    if pa.types.is_struct(column_type):
        return bool(column_type.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type))


def read_image_files(
    filesystem: pafs.FileSystem,
    numbered: Sequence[tuple[int, SourceFile]],
    decoder: ImageDecoder,
    keeps_faulty: bool = False,
) -> tuple[pa.Table, Ids]:
    """Reads files of one image each.

    Args:
        filesystem: The disk or object store of the source, which knows the paths of the files.
        numbered: Files with their indices in the layout, which become part of the row ids.
        decoder: Decodes each image and, if the spec says so, resizes it.
        keeps_faulty: Whether a file that is not an image becomes a row with a fault (in
            `values.FAULT`) instead of an error.

    Returns:
        A table of `image` and `label`, and the row ids, int64 [B].

    Raises:
        DataError: A file cannot be read, or is not an image and `keeps_faulty` is false.
    """
    pixels: list[images.Pixels | None] = []
    faults: list[str | None] = []
    files: list[bytes | None] = []
    for _, file in numbered:
        with name_errors(file.path), filesystem.open_input_stream(file.path) as stream:
            content = stream.read()
        try:
            pixels.append(decoder.decode(content))
            faults.append(None)
            files.append(content if decoder.keeps_files else None)
        except ValueError as error:
            other = file_kind.other_kind(content[: file_kind.HEAD_BYTES], "image_folder")
            reason = f"{UNREADABLE}: {f'it is {other[0]}' if other else error}"
            reason = reason if content else "the file is empty"
            if keeps_faulty:
                pixels.append(None)
                files.append(None)
                faults.append(row_faults.cell("image", None, reason))
                continue
            hint = other[1] if other else "Remove the file, or replace it."
            raise DataError(f"{file.path}: {reason}", hint) from error
    ids = np.array([first_row_id(index) for index, _ in numbered], dtype=np.int64)
    labels = [file.label or "" for _, file in numbered]
    table = pa.table({"image": values.image_array(pixels, files), "label": labels})
    if keeps_faulty:
        table = table.append_column(values.FAULT, pa.array(faults, pa.string()))
    return table, ids


def read_idx_pair(
    filesystem: pafs.FileSystem, file: SourceFile, decoder: ImageDecoder
) -> Iterator[pa.Table]:
    """Yields the images of an IDX file with their labels, in their order.

    Args:
        filesystem: The disk or object store of the source, which knows the paths of both files.
        file: File of images; its entry in the layout names the file of labels.
        decoder: Resizes the images, if the spec says so.

    Raises:
        DataError: A file is damaged, or the two have different numbers of rows.
    """
    if file.labels is None:
        raise DataError(
            f"{file.path}: there is no file of labels for these images",
            "Put it beside the images, as in train-labels-idx1-ubyte, or name both in data.source.",
        )
    pixels_BHW = read_idx(_read_file(filesystem, file), file.path, 3)
    # Errors about images are named by the caller, which knows only the file of images.
    with name_errors(file.labels.path):
        labels_B = read_idx(_read_file(filesystem, file.labels), file.labels.path, 1)
    if len(pixels_BHW) != len(labels_B):
        raise DataError(
            f"{file.path}: {len(pixels_BHW)} images, but {len(labels_B)} labels in "
            f"{file.labels.path}",
            "Both must be of the same part of the data set.",
        )
    rows_per_table = max(1, _BYTES_PER_TABLE // max(1, pixels_BHW[:1].size))
    texts_B = labels_B.astype(str)
    for start in range(0, len(pixels_BHW), rows_per_table):
        part = grey_images(pixels_BHW[start : start + rows_per_table], decoder)
        yield pa.table({"image": part, "label": texts_B[start : start + rows_per_table]})


def grey_images(pixels_BHW: npt.NDArray[np.uint8], decoder: ImageDecoder) -> pa.Array:
    """Grey images as a column, resized if the decoder says so."""
    # Images of the wanted size and channels need no decoding, and no copy of each.
    if decoder.size in (None, pixels_BHW.shape[1:]) and decoder.channels in (None, 1):
        return values.image_block(pixels_BHW)
    return values.image_array([decoder.decode(image) for image in pixels_BHW])


def _read_file(filesystem: pafs.FileSystem, file: SourceFile) -> bytes:
    with filesystem.open_input_stream(file.path) as stream:
        return bytes(stream.read())


def read_idx(content: bytes, path: str, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """Parses an IDX file (the format of MNIST): magic number, dimensions, values.

    Args:
        content: Bytes of the whole file, decompressed.
        path: Path of the file, for messages.
        num_dimensions: 3 for images, 1 for labels.

    Returns:
        uint8 [B, H, W] or [B], over the bytes of `content`.

    Raises:
        DataError: The magic number is wrong, or there are more or fewer values than the header
            says.
    """
    # Two zero bytes, the type (8: uint8) and the number of dimensions.
    expected = f"{0x800 + num_dimensions:#010x}"
    if len(content) < 4 or content[:4] != bytes([0, 0, 8, num_dimensions]):
        what = "uint8 images" if num_dimensions == 3 else "uint8 labels"
        raise DataError(
            f"{path}: magic number 0x{content[:4].hex()} is not that of IDX {what}, {expected}",
            "Are images and labels swapped?" if content[:3] == b"\0\0\x08" else None,
        )
    start = 4 + 4 * num_dimensions
    if len(content) < start:
        raise DataError(f"{path}: {len(content)} bytes are less than the header", _CUT_OFF)
    shape = [int(size) for size in np.frombuffer(content[4:start], dtype=">u4")]
    if len(content) - start != math.prod(shape):
        sizes = f"{' x '.join(map(str, shape))}, {math.prod(shape)} bytes"
        raise DataError(
            f"{path}: the header says {sizes}, but {len(content) - start} follow", _CUT_OFF
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
