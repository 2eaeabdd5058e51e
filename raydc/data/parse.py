"""Bytes of a file to values: lines of JSON, IDX arrays, and what a row's digest is made of."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.errors import DataError, shown

_CUT_OFF = "The file was cut off; download it again."


def json_row(path: str, number: int, line: bytes) -> dict[str, str | None]:
    """One line of JSON Lines, its cells as text; `number` counts from 0.

    Raises:
        DataError: It is no JSON object of plain values, named by its line.
    """
    place = f"{path}: line {number + 1}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{place}: not JSON: {error}", "Each line must be one JSON object."
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{place}: {shown(row)} is not an object", "Each line must be one JSON object."
        )
    return {name: _json_text(place, name, value) for name, value in row.items()}


def _json_text(place: str, name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return json.dumps(value)
    kind = "an object" if isinstance(value, dict) else "a list"
    raise DataError(
        f"{place}: {name}: {kind} is no number, text or image", "Images stand as base64 text."
    )


def read_idx(content: bytes, path: str, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of an IDX file (the format of the MNIST files): magic number, dimensions, values.

    Raises:
        DataError: Another magic number, or more or fewer values than the header says.
    """
    expected = f"{0x800 + num_dimensions:#010x}"
    if len(content) < 4 or content[:4] != bytes([0, 0, 8, num_dimensions]):
        what = "uint8 images" if num_dimensions == 3 else "uint8 labels"
        raise DataError(
            f"{path}: magic number 0x{content[:4].hex()} is not that of IDX {what}, {expected}",
            "Are images and labels exchanged?" if content[:3] == b"\0\0\x08" else None,
        )
    start = 4 + 4 * num_dimensions
    if len(content) < start:
        raise DataError(f"{path}: {len(content)} bytes are less than the header", _CUT_OFF)
    shape = [int(size) for size in np.frombuffer(content[4:start], dtype=">u4")]
    if len(content) - start != math.prod(shape):
        message = (
            f"{path}: the header says {' x '.join(map(str, shape))}, {math.prod(shape)} bytes, but "
        )
        raise DataError(f"{message}{len(content) - start} follow", _CUT_OFF)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def digests(columns: dict[str, pa.ChunkedArray], num_rows: int) -> list[bytes]:
    """16 bytes per row over the names and contents of its columns."""
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(num_rows)]
    for name in sorted(columns):
        for row_hash, cell in zip(hashes, columns[name].to_pylist(), strict=True):
            if cell is None:
                continue  # A missing key is a null: which keys other lines have must not show.
            # The length keeps ("ab", "c") and ("a", "bc") apart.
            content = _cell_bytes(cell)
            row_hash.update(f"{name}:{len(content)}:".encode() + content)
    return [row_hash.digest() for row_hash in hashes]


def _cell_bytes(cell: Any) -> bytes:
    if isinstance(cell, dict) and "pixels" in cell:
        return f"{cell['height']}x{cell['width']}:".encode() + bytes(cell["pixels"])
    return cell.encode() if isinstance(cell, str) else repr(cell).encode()
