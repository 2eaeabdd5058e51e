"""One tensor of a v2 request to one raw column.

    numeric column      FP32, FP64, INT*, UINT* or BOOL [B]
    categorical column  BYTES [B], or any of the above
    image column        UINT8 [B, H, W], [B, H, W, C] or [B, C, H, W]; or BYTES [B], each a PNG or JPEG in base64

B is the number of rows.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMPY_TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}


class RequestError(Exception):
    """A request that is refused: the HTTP status and the sentence for the client."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers = headers or {}

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Interface:
    """What a model takes and gives: raw columns with their kinds, and class names (none for a regression)."""

    kinds: dict[str, str]
    classes: tuple[str, ...]

    @property
    def image_columns(self) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind == "image"]


def parse_tensor(tensor: Any, place: str, interface: Interface) -> tuple[str, Any, int]:
    """Name, column and number of rows of one input."""
    if not isinstance(tensor, dict):
        raise RequestError(400, f"{place} must be an object, not {kind_of(tensor)}")
    for key in ("name", "shape", "datatype", "data"):
        if key not in tensor:
            raise RequestError(400, f"{place} lacks {key!r}")
    name, datatype = tensor["name"], tensor["datatype"]
    if name not in interface.kinds:
        raise RequestError(400, f"{place}.name is {name!r}; {_advice(name, list(interface.kinds))}")
    shape = _parse_shape(tensor["shape"], f"{place}.shape")
    is_image = interface.kinds[name] == "image"
    if datatype == "BYTES":
        texts = _parse_texts(tensor["data"], shape, place)
        return name, [_decode_base64(text, place) for text in texts] if is_image else texts, shape[0]
    if not isinstance(datatype, str) or datatype not in _NUMPY_TYPES:
        raise RequestError(400, f"{place}.datatype is {datatype!r}; known are {', '.join([*_NUMPY_TYPES, 'BYTES'])}")
    values = _parse_numbers(tensor["data"], datatype, shape, place)
    if is_image:
        return name, _images(values, place), shape[0]
    return name, _flat(values, place), shape[0]


def _parse_shape(shape: Any, place: str) -> list[int]:
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        raise RequestError(400, f"{place} must be a list of whole numbers above 0, the first of them the rows")
    return shape


def _parse_numbers(data: Any, datatype: str, shape: list[int], place: str) -> npt.NDArray[Any]:
    """An array of the datatype and shape; the data may be flat or nested."""
    try:
        given = np.asarray(data)
    except ValueError as error:
        raise RequestError(400, f"{place}.data is ragged") from error
    if given.dtype.kind not in "biuf":
        raise RequestError(400, f"{place}.data holds values that are not numbers; the datatype is {datatype}")
    if given.size != math.prod(shape):
        raise RequestError(400, f"{place}.data has {given.size} values, shape {shape} needs {math.prod(shape)}")
    wanted: np.dtype[Any] = np.dtype(_NUMPY_TYPES[datatype])
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if given.dtype.kind == "f" or given.min() < limits.min or given.max() > limits.max:
            raise RequestError(400, f"{place}.data holds values that are no {datatype}")
    return given.astype(wanted).reshape(shape)


def _parse_texts(data: Any, shape: list[int], place: str) -> list[str]:
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if isinstance(data, list) and data and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise RequestError(400, f"{place}.data must be a list of strings; the datatype is BYTES")
    if math.prod(shape) != shape[0] or len(data) != shape[0]:
        raise RequestError(400, f"{place}.data has {len(data)} strings, shape is {shape}; give [rows]")
    return data


def _decode_base64(text: str, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"{place}.data holds an image that is not base64: {error}") from error


def _images(values: npt.NDArray[Any], place: str) -> list[npt.NDArray[np.uint8]]:
    """[B,H,W], [B,H,W,C] or [B,C,H,W] with C of 1 or 3 to a list of [H,W] or [H,W,C]."""
    if values.ndim not in (3, 4):
        raise RequestError(400, f"{place}.shape is {list(values.shape)}; an image is [B,H,W], [B,H,W,C] or [B,C,H,W]")
    pixels = values.astype(np.uint8)
    if values.dtype != np.uint8 and not np.array_equal(pixels, values):
        raise RequestError(400, f"{place}.data: pixels are whole numbers from 0 to 255")
    if values.ndim == 4 and values.shape[3] not in (1, 3):
        if values.shape[1] not in (1, 3):
            raise RequestError(400, f"{place}.shape is {list(values.shape)}; an image has 1 or 3 channels")
        pixels = pixels.transpose(0, 2, 3, 1)
    return list(pixels)


def _flat(values: npt.NDArray[Any], place: str) -> npt.NDArray[Any]:
    if values.size != len(values):
        raise RequestError(400, f"{place}.shape is {list(values.shape)}; a column is [rows]")
    return values.reshape(-1)


def _advice(name: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the model's inputs are {', '.join(map(repr, known))}"


def kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
