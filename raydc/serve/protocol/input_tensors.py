"""Converts one tensor of a v2 request to one raw column, or to all of them. Runs in the replica.

    numeric column      any datatype of numbers, or BOOL, [B]; or BYTES [B], numbers as text
    categorical column  BYTES [B], or any of the above
    text column         BYTES [B], each a text in UTF-8
    date column         numbers [B], seconds since 1970; or BYTES [B], such as 2024-02-29
    past steps          numbers [B, steps, columns], of one column also [B, steps]
    list column         numbers [B, length, ...], lists of one length; or BYTES [B], each a list as
                        JSON text
    image column        UINT8 [B, H, W], [B, H, W, C] or [B, C, H, W], grey also [B, H * W]; other
                        datatypes if all values are integers from 0 to 255; or BYTES [B], each an
                        encoded image
    `columns`           numbers [B, F], for a model that takes F numbers and nothing else

Data is in the JSON (flat or nested), or in binary form after it (see `binary`). A missing number is
NaN, which only the binary form can express. B is the number of rows.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import shown
from raydc.features import CATEGORIES, Image, nested
from raydc.serve.protocol import binary
from raydc.serve.protocol.interface import Interface, RequestError, json_type_of

Array = npt.NDArray[Any]

# numpy raises for more than 32 or 64 dimensions, depending on its version.
_MAX_DIMENSIONS = 8


def parse_tensor(
    tensor: Any, place: str, interface: Interface, tail: binary.BinaryTail | None
) -> tuple[str, Any, int]:
    """Reads one input.

    Args:
        tensor: One element of `inputs`, as parsed JSON; not checked yet.
        place: Position in the request such as `inputs[0]`, for messages.
        interface: Columns of the model, against which name and shape are checked.
        tail: Binary data of the request, of which this tensor takes its part; None if it has none.

    Returns:
        Name, values as `Features.apply` takes them, and number of rows.

    Raises:
        RequestError: 400 with the place.
    """
    if not isinstance(tensor, dict):
        raise RequestError(400, f"{place} must be an object, not {json_type_of(tensor)}")
    for key in ("name", "shape", "datatype"):
        if key not in tensor:
            raise RequestError(400, f"{place} lacks {key!r}")
    name, datatype = tensor["name"], tensor["datatype"]
    # Types first: a list is not hashable and must not reach a dictionary.
    if not isinstance(name, str) or not (name in interface.kinds or name == interface.all_columns):
        raise RequestError(400, f"{place}.name is {shown(name)}; {interface.suggest(name)}")
    if not isinstance(datatype, str) or not (datatype in binary.DATATYPES or datatype == "BYTES"):
        known = ", ".join([*binary.DATATYPES, "BYTES"])
        raise RequestError(400, f"{place}.datatype is {shown(datatype)}; known datatypes: {known}")
    shape = parse_shape(tensor["shape"], f"{place}.shape")
    num_bytes = _parse_binary_data_size(tensor, place)
    if num_bytes is None:
        if "data" not in tensor:
            raise RequestError(400, f"{place} lacks 'data'")
        data = tensor["data"]
        if datatype == "BYTES":
            texts = _parse_json_texts(data, shape, place)
            return name, _convert_texts(texts, name, place, interface), shape[0]
        numbers = _parse_json_numbers(data, datatype, shape, place)
        return name, fit_to_column(numbers, name, place, interface), shape[0]
    if "data" in tensor:
        raise RequestError(400, f"{place} has both data and parameters.binary_data_size")
    if tail is None:
        raise RequestError(
            400,
            f"{place}.parameters.binary_data_size needs the header {binary.HEADER}: "
            "the length of the JSON part",
        )
    content = tail.take(num_bytes, place)
    if datatype == "BYTES":
        _check_text_shape(shape, place)
        items = binary.decode_texts(content, shape[0], place)
        return name, _convert_binary_texts(items, name, place, interface), shape[0]
    numbers = binary.decode_numbers(content, datatype, shape, place)
    return name, fit_to_column(numbers, name, place, interface), shape[0]


def parse_shape(shape: Any, place: str) -> list[int]:
    """Checks a shape. Raises RequestError 400 if it is not a list of positive integers."""
    # `type(...) is int`: a bool is an instance of int as well.
    if (
        not isinstance(shape, list)
        or not shape
        or not all(type(size) is int and size > 0 for size in shape)
    ):
        raise RequestError(
            400, f"{place} must be a list of integers above 0, the first of them the rows"
        )
    if len(shape) > _MAX_DIMENSIONS:
        raise RequestError(400, f"{place} has {len(shape)} dimensions; no input has more than 4")
    return shape


def fit_to_column(values: Array, name: str, place: str, interface: Interface) -> Array:
    """Gives an array the shape that a column of the model (or all columns) has.

    Args:
        values: Numbers or pixels as the client shaped them; the first axis is the rows.
        name: Column, or the name of the tensor of all columns.
        place: Position in the request such as `inputs[0]`, for messages.
        interface: Columns of the model, against which name and shape are checked.

    Returns:
        [B] for a number or category, [B, F] for all columns, [B, length] or [B, length, K] for
        lists, [B, steps, columns] for past steps, [B, H, W] or [B, H, W, C] for images.

    Raises:
        RequestError: 400 if the shape does not fit.
    """
    if name in interface.image_columns:
        return _to_images(values, place, interface.image_columns[name])
    if name in interface.windows:
        window = interface.windows[name]
        expected = [-1, window.length, len(window.columns)]
        is_flat = len(window.columns) == 1 and list(values.shape[1:]) == expected[1:2]
        if list(values.shape[1:]) != expected[1:] and not is_flat:
            raise _wrong_shape(values, expected, place)
        return values.reshape(expected)
    if values.dtype == np.bool_:
        # As a number, true is 1. As a category it is the text `true`, so it stays a boolean.
        is_category = isinstance(interface.features.columns.get(name), CATEGORIES)
        values = values if is_category else values.view(np.uint8)
    if name == interface.all_columns:
        if values.ndim != 2 or values.shape[1] != len(interface.kinds):
            raise _wrong_shape(values, [-1, len(interface.kinds)], place)
        return values
    if interface.kinds.get(name) == "list":
        # The features know how long a list may be, and name the row.
        return values
    # [B, 1] is accepted as [B].
    if values.size != len(values):
        raise _wrong_shape(values, [-1], place)
    return values.reshape(-1)


def _wrong_shape(values: Array, expected: list[int], place: str) -> RequestError:
    return RequestError(400, f"{place}.shape is {list(values.shape)}, expected {expected}")


def _parse_binary_data_size(tensor: dict[str, Any], place: str) -> int | None:
    """Bytes of the tensor's binary data; None if its data is in the JSON."""
    parameters = tensor.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise RequestError(
            400, f"{place}.parameters must be an object, not {json_type_of(parameters)}"
        )
    if "shared_memory_region" in parameters:
        raise RequestError(
            400, f"{place}.parameters.shared_memory_region: shared memory is not supported"
        )
    num_bytes = parameters.get("binary_data_size")
    if num_bytes is not None and (type(num_bytes) is not int or num_bytes < 0):
        raise RequestError(
            400,
            f"{place}.parameters.binary_data_size is {shown(num_bytes)}; give a number of bytes",
        )
    return num_bytes


def _parse_json_numbers(data: Any, datatype: str, shape: list[int], place: str) -> Array:
    """Makes an array of the datatype and shape from flat or nested lists."""
    if not isinstance(data, list):
        raise RequestError(400, f"{place}.data must be a list, not {json_type_of(data)}")
    if datatype == "UINT8" and len(data) == math.prod(shape):
        # Flat pixels are the common case, and bytes() takes a quarter of the time of what follows.
        # It refuses all but integers from 0 to 255; what follows then says why.
        try:
            return np.frombuffer(bytes(data), np.uint8).reshape(shape)
        except (TypeError, ValueError):
            pass
    try:
        given = nested.to_array(data)
    except ValueError as error:
        raise RequestError(400, f"{place}.data: {error}; the datatype is {datatype}") from error
    if given.dtype.kind not in "biuf" or (given.dtype.kind == "b" and datatype != "BOOL"):
        raise RequestError(
            400, f"{place}.data: its values are not numbers; the datatype is {datatype}"
        )
    if given.size != math.prod(shape):
        raise RequestError(
            400, f"{place}.data has {given.size} values, shape {shape} needs {math.prod(shape)}"
        )
    wanted = binary.DATATYPES[datatype]
    if wanted.kind in "iub" and given.dtype.kind != "b":
        # astype() would wrap around or cut off the fraction without a word.
        low, high = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
        if given.dtype.kind == "f" or given.min() < low or given.max() > high:
            raise RequestError(400, f"{place}.data holds values that are not {datatype}")
    # A number too large for FP32 becomes infinite; the features refuse that with its row.
    with np.errstate(over="ignore"):
        return given.astype(wanted).reshape(shape)


def _parse_json_texts(data: Any, shape: list[int], place: str) -> list[str]:
    # Clients nest texts as [["a", "b"]] and as [["a"], ["b"]]; both are the texts of B rows.
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if (
        isinstance(data, list)
        and data
        and all(isinstance(item, list) and len(item) == 1 for item in data)
    ):
        data = [item[0] for item in data]
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise RequestError(400, f"{place}.data must be a list of strings; the datatype is BYTES")
    _check_text_shape(shape, place)
    if len(data) != shape[0]:
        raise RequestError(400, f"{place}.data has {len(data)} strings, shape is {shape}")
    return data


def _check_text_shape(shape: list[int], place: str) -> None:
    if math.prod(shape) != shape[0]:
        raise RequestError(400, f"{place}.shape is {shape}, expected [-1]")


def _convert_texts(texts: list[str], name: str, place: str, interface: Interface) -> list[Any]:
    """Texts of a column; for images, the files that they hold in base64."""
    if name == interface.all_columns:
        raise RequestError(400, f"{place}.datatype is 'BYTES'; {name!r} holds numbers")
    if name not in interface.image_columns:
        return texts
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            400, f"{place}.data holds an image that is not base64: {error}"
        ) from error


def _convert_binary_texts(
    items: list[bytes], name: str, place: str, interface: Interface
) -> list[Any]:
    # In binary form an image is its file; base64 would cost a third more.
    if name in interface.image_columns:
        return items
    try:
        return _convert_texts([item.decode() for item in items], name, place, interface)
    except UnicodeDecodeError as error:
        raise RequestError(
            400, f"{place}: its binary data holds a text that is not UTF-8: {error}"
        ) from error


def _to_images(values: Array, place: str, column: Image) -> npt.NDArray[np.uint8]:
    """Pixels as [B, H, W] (grey) or [B, H, W, C], from any usual layout."""
    channels, height, width = column.shape
    if values.dtype != np.uint8:
        values = _to_bytes(values, place)
    if values.ndim == 2 and channels == 1 and values.shape[1] == height * width:
        return values.reshape(-1, height, width)
    # The last axis is tried first: an image 3 pixels high is rarer than a colour image.
    if values.ndim == 3 or (values.ndim == 4 and values.shape[3] in (1, 3)):
        return values
    if values.ndim == 4 and values.shape[1] in (1, 3):
        return values.transpose(0, 2, 3, 1)
    expected = [-1, height, width] if channels == 1 else [-1, height, width, channels]
    raise _wrong_shape(values, expected, place)


def _to_bytes(values: Array, place: str) -> npt.NDArray[np.uint8]:
    # Both comparisons are false for NaN, so it is refused. Booleans are refused: true is not 255.
    if (
        values.dtype == np.bool_
        or not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all()
    ):
        raise RequestError(400, f"{place}: pixels are integers from 0 to 255")
    return values.astype(np.uint8)
