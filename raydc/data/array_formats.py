"""NumPy files, and tar files of images, as tables of raw rows. Runs in tasks of Ray Data."""

from __future__ import annotations

import io
import itertools
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydc.data import image_formats, list_values, text_formats, values
from raydc.data.csv_rows import escaped
from raydc.data.image_formats import ImageDecoder
from raydc.data.layout import DAMAGED, SourceFile
from raydc.data.nested_cells import NestedCells
from raydc.errors import DataError, first_line

_BYTES_PER_TABLE = 16 * 1024 * 1024
_SAMPLES_PER_TABLE = 64
_OBJECTS = "Objects are not read: they could run code. Write numbers or text."
_IMAGES = ("jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm")


def read_numpy(
    filesystem: pafs.FileSystem, file: SourceFile, decoder: ImageDecoder
) -> Iterator[pa.Table]:
    """Yields the rows of a `.npz` or `.npy` file.

    An array [B] of a `.npz` file is a column, [B, F] are F columns `name_1` and so on, uint8
    [B, H, W] or [B, H, W, C] are images, and other numbers [B, length, K] lists of K numbers each.
    A `.npy` file has columns by the fields of its type, or `column_1` and so on.

    Args:
        filesystem: Filesystem that holds the file.
        file: A file of the source; messages name it.
        decoder: Resizes images, if the spec says so.

    Raises:
        DataError: An array has objects or a shape that is not a column, or lengths differ.
    """
    with filesystem.open_input_stream(file.path) as stream:
        content = stream.read()
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        arrays = dict(loaded) if hasattr(loaded, "files") else {"": loaded}
    # A damaged header may announce more than any memory holds.
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        is_object = "allow_pickle" in str(error)
        raise DataError(
            f"{file.path} cannot be read: {first_line(error)}", _OBJECTS if is_object else DAMAGED
        ) from error
    columns = {
        column: cells
        for name, array in arrays.items()
        for column, cells in _columns_of(file.path, name, array)
    }
    values.refuse_internal(file.path, columns)
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r} has {length:,}" for name, length in lengths.items())
        raise DataError(
            f"{file.path}: the arrays differ in their number of rows: {told}",
            "The first axis of every array counts the rows; leave other arrays out of the file.",
        )
    num_rows = next(iter(lengths.values()), 0)
    row_bytes = sum(cells[:1].nbytes for cells in columns.values())
    per_table = max(1, _BYTES_PER_TABLE // max(1, row_bytes))
    for start in range(0, num_rows, per_table):
        yield pa.table(
            {
                name: _arrow(file.path, name, cells[start : start + per_table], decoder)
                for name, cells in columns.items()
            }
        )


def _columns_of(path: str, name: str, array: Any) -> Iterator[tuple[str, Any]]:
    if array.dtype.names:
        for field in array.dtype.names:
            yield from _columns_of(path, field, array[field])
    elif array.ndim == 1:
        yield name or "column_1", array
    elif array.ndim == 2:
        for position in range(array.shape[1]):
            yield f"{name or 'column'}_{position + 1}", array[:, position]
    elif array.ndim == 3 and array.dtype != np.uint8 and array.dtype.kind in "iuf":
        yield name or "series", array
    elif array.dtype == np.uint8 and (array.ndim == 3 or array.shape[3:] in ((1,), (3,))):
        yield name or "image", array
    else:
        what = f"array {name!r}" if name else "the array"
        raise DataError(
            f"{path}: {what} of {array.dtype} and shape {array.shape} is not a column",
            "Columns are [B] or [B, F]; images are uint8 [B, H, W] or [B, H, W, C]; series are "
            "other numbers [B, length, K].",
        )


def _arrow(path: str, name: str, cells: Any, decoder: ImageDecoder) -> pa.Array:
    if cells.ndim == 3 and cells.dtype != np.uint8:
        return list_values.series_block(cells)
    if cells.ndim > 1:
        if cells.ndim == 4 and cells.shape[3] == 1:
            cells = cells[..., 0]
        if cells.ndim == 3:
            return image_formats.grey_images(cells, decoder)
        return values.image_array([decoder.decode(image) for image in cells])
    if cells.dtype.kind == "S":
        return _texts(path, name, cells)
    try:
        # A view into a structured array is not contiguous, and Arrow takes no bytes in the order of
        # other machines.
        return pa.array(np.ascontiguousarray(cells, dtype=cells.dtype.newbyteorder("=")))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(
            f"{path}: {name}: {cells.dtype} is not a type that a column can have",
            "Store it as numbers, booleans, texts or dates.",
        ) from error


def _texts(path: str, name: str, cells: Any) -> pa.Array:
    # numpy has no other type for short texts of C and HDF5.
    texts = []
    for row, cell in enumerate(cells.tolist(), start=1):
        try:
            texts.append(cell.decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: {name}: '{escaped(cell)}', value {row} of its table, is not UTF-8 text",
                "Write text as numpy's type U.",
            ) from error
    return pa.array(texts, pa.string())


class _Member(tarfile.TarInfo):
    """The head of a file in a tar file, whose end is marked."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        """Reads the next head. Raises ReadError where tarfile would take damage for the end."""
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from error


def read_tar(
    filesystem: pafs.FileSystem, file: SourceFile, nested: NestedCells
) -> Iterator[pa.Table]:
    """Yields the samples of a tar file in the layout of WebDataset.

    Neighbouring files whose names differ only after the first dot are one sample: `a/7.jpg` is its
    `image`, `a/7.cls` its `label`, and `a/7.json` has other columns. Other files are left out.

    Args:
        filesystem: Filesystem that holds the file.
        file: A file of the source; messages name it.
        nested: Which values of a JSON file may be lists or objects of any kind.

    Raises:
        DataError: The file is cut off, a sample is in two places, or a JSON file is not an object.
    """
    samples = enumerate(_samples(filesystem, file, nested), start=1)
    while rows := list(itertools.islice(samples, _SAMPLES_PER_TABLE)):
        yield _table_of(file.path, rows)


def _table_of(path: str, rows: list[tuple[int, dict[str, Any]]]) -> pa.Table:
    columns = {}
    for name in dict.fromkeys(name for _, row in rows for name in row):
        cells = [row.get(name) for _, row in rows]
        places = [f"{path}: sample {number}: {name}" for number, _ in rows]
        is_image = name == "image"
        columns[name] = (
            pa.array(cells, pa.large_binary())
            if is_image
            else text_formats.cells_of(cells, places.__getitem__)
        )
    return pa.table(columns)


def _samples(
    filesystem: pafs.FileSystem, file: SourceFile, nested: NestedCells
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    key: str | None = None
    row: dict[str, Any] = {}
    try:
        with (
            filesystem.open_input_stream(file.path) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive,
        ):
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                # macOS adds hidden files.
                if not member.isfile() or not stem:
                    continue
                sample = f"{folder}/{stem}"
                if sample != key:
                    if row:
                        yield row
                    if sample in seen:
                        raise DataError(
                            f"{file.path}: the files of {sample.lstrip('/')} are in two places",
                            "Files of one sample must be neighbours: tar --sort=name.",
                        )
                    key, row = sample, {}
                    seen.add(sample)
                content = archive.extractfile(member)
                text = content.read()  # type: ignore[union-attr]
                cells = _cells(f"{file.path}: {member.name}", suffix.lower(), text, nested)
                if both := row.keys() & cells.keys():
                    raise DataError(
                        f"{file.path}: {member.name}: its sample has {min(both)!r} twice",
                        "Leave one of the files out.",
                    )
                row |= cells
    except tarfile.TarError as error:
        raise DataError(f"{file.path} cannot be read: {first_line(error)}", DAMAGED) from error
    if row:
        yield row


def _cells(place: str, suffix: str, content: bytes, nested: NestedCells) -> dict[str, Any]:
    if suffix in _IMAGES:
        return {"image": content}
    if suffix in ("cls", "txt"):
        text = content.decode(errors="backslashreplace").strip()
        return {"label" if suffix == "cls" else "text": text}
    if suffix == "json":
        return dict(text_formats.json_row(place, 0, content, nested))
    return {}
