"""Binary tensor data extension of the Open Inference Protocol. Runs in the replica.

A body is JSON, as long as the header `Inference-Header-Content-Length` says, followed by the data
of each tensor that has the parameter `binary_data_size`, in the order of the JSON. Numbers are
little-endian and row-major; a text is its length in 4 bytes and then its bytes. Answers
have the same form.
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
# Storage types that differ from the type used in computation: BF16 is the upper half of FP32.
_STORED = {"BF16": np.dtype("<u2")}


class BinaryTail:
    """The binary data of a request, taken tensor by tensor."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._start = 0

    def take(self, num_bytes: int, place: str) -> memoryview:
        """Takes the next `num_bytes` bytes. Raises RequestError 400 if fewer are left."""
        left = len(self._content) - self._start
        if num_bytes > left:
            raise RequestError(
                400,
                f"{place}.parameters.binary_data_size is {num_bytes}, "
                f"and {left} bytes of the body are left",
            )
        start, self._start = self._start, self._start + num_bytes
        return self._content[start : self._start]

    def finish(self) -> None:
        """Checks that all bytes were taken. Raises RequestError 400 if some are left."""
        left = len(self._content) - self._start
        if left:
            raise RequestError(400, f"the body has {left} bytes after the data of its inputs")


def split_body(body: bytes, header_length: str) -> tuple[memoryview, BinaryTail]:
    """Splits a body into its JSON and its binary data, without a copy.

    Args:
        body: JSON, followed directly by the data of the tensors.
        header_length: Header `Inference-Header-Content-Length`: bytes of the JSON part.

    Raises:
        RequestError: 400 if `header_length` is not a length, or exceeds the body.
    """
    # int() of a long text takes quadratic time; 18 digits hold any length.
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 19):
        raise RequestError(
            400, f"{HEADER} is {header_length[:80]!r}; give the length of the JSON part in bytes"
        )
    length = int(header_length)
    if length > len(body):
        raise RequestError(400, f"{HEADER} is {length}, and the body has {len(body)} bytes")
    view = memoryview(body)
    return view[:length], BinaryTail(view[length:])


def decode_numbers(content: memoryview, datatype: str, shape: Sequence[int], place: str) -> Array:
    """Reads a tensor of numbers, without a copy unless it is BF16.

    Args:
        content: The bytes. The array shares their memory and is read-only if they are.
        datatype: A key of `DATATYPES`.
        shape: Shape that the request states; it is not trusted.
        place: Position in the request such as `inputs[0]`, for messages.

    Raises:
        RequestError: 400 if the shape needs a different number of bytes, or a BOOL is not 0 or 1.
    """
    stored = _STORED.get(datatype, DATATYPES[datatype])
    # Python integers: a hostile shape must not overflow into a small size.
    expected = math.prod(shape) * stored.itemsize
    if len(content) != expected:
        raise RequestError(
            400,
            f"{place} has {len(content)} bytes of data, {datatype} {list(shape)} needs {expected}",
        )
    if datatype == "BOOL":
        bits = np.frombuffer(content, np.uint8)
        # numpy would take any byte for a boolean and then compute with its value.
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
    """Bytes that a number takes in binary form."""
    return _STORED.get(datatype, DATATYPES[datatype]).itemsize


def decode_texts(content: memoryview, count: int, place: str) -> list[bytes]:
    """Reads the elements of a BYTES tensor.

    Args:
        content: The tensor's bytes: each text after its length.
        count: Number of texts that the shape asks for.
        place: Position in the request such as `inputs[0]`, for messages.

    Raises:
        RequestError: 400 if there are more or fewer texts, or a length exceeds the data.
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
        # Checked inside the loop: four bytes are enough for a text, so a body may hold millions.
        if len(items) == count:
            raise RequestError(400, f"{place} has more texts than its shape says: {count}")
        items.append(bytes(content[start + 4 : stop]))
        start = stop
    if len(items) != count:
        raise RequestError(
            400, f"{place} has {len(items)} texts in its binary data, its shape says {count}"
        )
    return items


def encode_tensor(values: Array | Sequence[str], datatype: str) -> bytes:
    """Encodes an output: an array, or texts if the datatype is BYTES."""
    if datatype == "BYTES":
        items = [str(text).encode() for text in values]
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    return np.ascontiguousarray(values, dtype=DATATYPES[datatype]).tobytes()
