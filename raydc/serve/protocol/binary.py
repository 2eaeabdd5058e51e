"""The binary tensor data extension of the Open Inference Protocol: numbers that need no parsing.

A request body is JSON, as long as the header `Inference-Header-Content-Length` says, and then the data of those
tensors whose parameters have a `binary_data_size`, one after the other: little-endian, row by row; a text is its
length in 4 bytes and then its bytes. An answer looks the same.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.client import tensors
from raydc.serve.protocol.interface import RequestError

Array = npt.NDArray[Any]

EXTENSION = "binary_tensor_data"
HEADER = tensors.HEADER.title()

# numpy has no BF16: it is read as FP32.
DATATYPES: dict[str, np.dtype[Any]] = {**tensors.DATATYPES, "BF16": np.dtype("<f4")}
_STORED = {"BF16": np.dtype("<u2")}


class BinaryTail:
    """The binary data of a request, taken tensor by tensor."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._start = 0

    def take(self, num_bytes: int, place: str) -> memoryview:
        """The next bytes. Raises RequestError 400 where there are not as many."""
        left = len(self._content) - self._start
        if num_bytes > left:
            raise RequestError(
                400,
                f"{place}.parameters.binary_data_size is {num_bytes}, and {left} bytes of the body are left",
            )
        start, self._start = self._start, self._start + num_bytes
        return self._content[start : self._start]

    def finish(self) -> None:
        """Raises RequestError 400 where bytes are left."""
        left = len(self._content) - self._start
        if left:
            raise RequestError(400, f"the body has {left} bytes behind the data of its inputs")


def split(body: bytes, header_length: str) -> tuple[memoryview, BinaryTail]:
    """The JSON part of a body, and the rest.

    Raises:
        RequestError: 400, `header_length` is no length or more than there is.
    """
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 19):
        raise RequestError(
            400, f"{HEADER} is {header_length[:80]!r}; give the length of the JSON part in bytes"
        )
    length = int(header_length)
    if length > len(body):
        raise RequestError(400, f"{HEADER} is {length}, and the body has {len(body)} bytes")
    view = memoryview(body)
    return view[:length], BinaryTail(view[length:])


def numbers(content: memoryview, datatype: str, shape: Sequence[int], place: str) -> Array:
    """An array over the same memory, which is read-only where the content is.

    Raises:
        RequestError: 400, the number of bytes is not that of the shape; a BOOL that is neither 0 nor 1.
    """
    stored = _STORED.get(datatype, DATATYPES[datatype])
    expected = math.prod(shape) * stored.itemsize
    if len(content) != expected:
        raise RequestError(
            400,
            f"{place} has {len(content)} bytes of data, {datatype} {list(shape)} needs {expected}",
        )
    if datatype == "BOOL":
        bits = np.frombuffer(content, np.uint8)
        if bits.max() > 1:
            raise RequestError(
                400, f"{place}: its binary data holds a BOOL that is neither 0 nor 1"
            )
        return bits.view(np.bool_).reshape(shape)
    values = np.frombuffer(content, stored)
    if datatype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def itemsize(datatype: str) -> int:
    """Bytes of a number in binary form."""
    return _STORED.get(datatype, DATATYPES[datatype]).itemsize


def texts(content: memoryview, count: int, place: str) -> list[bytes]:
    """The elements of a BYTES tensor.

    Raises:
        RequestError: 400, they are not as many, or a length does not fit.
    """
    items: list[bytes] = []
    start = 0
    while start < len(content):
        stop = start + 4
        if stop <= len(content):
            stop += struct.unpack_from("<I", content, start)[0]
        if stop > len(content):
            raise RequestError(
                400, f"{place}: the text at byte {start} of its binary data is cut off"
            )
        if len(items) == count:
            raise RequestError(400, f"{place} has more texts than its shape says: {count}")
        items.append(bytes(content[start + 4 : stop]))
        start = stop
    if len(items) != count:
        raise RequestError(
            400, f"{place} has {len(items)} texts in its binary data, its shape says {count}"
        )
    return items


def encode(values: Array | Sequence[str], datatype: str) -> bytes:
    """The data of an output: an array, or texts where the datatype is BYTES."""
    if datatype == "BYTES":
        items = [str(text).encode() for text in values]
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    return np.ascontiguousarray(values, dtype=DATATYPES[datatype]).tobytes()
