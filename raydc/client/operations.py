"""What can be asked: each as the request that is sent and the function that reads its answer."""

from __future__ import annotations

import io
import json
import math
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from raydc.client.replies import Answer, Metadata, Reply, Tensors, parse_answer, parse_metadata
from raydc.errors import ServeError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")
Row = Mapping[str, Any]
ImageInput: TypeAlias = "bytes | str | PathLike[str] | npt.NDArray[np.uint8]"

_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A request without its address, and how its answer is read; `read` raises ServeError."""

    method: str
    path: str
    read: Callable[[Reply], T]
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def predict(rows: Sequence[Row] | None, image: ImageInput | None) -> Operation[Answer]:
    """`POST /predict` with raw rows, or with an image.

    Raises:
        UsageError: Neither or both, a value that JSON has none for, or an image that cannot be read.
    """
    if (rows is None) == (image is None):
        raise UsageError("give rows or an image to predict, one of the two")
    if image is not None:
        content, kind = _encode_image(image)
    else:
        content, kind = _encode_rows(rows or []), "application/json"
    return Operation("POST", "/predict", parse_answer, content, {"content-type": kind})


def infer(
    model: str, version: str | None, inputs: Mapping[str, Any], outputs: Sequence[str] | None
) -> Operation[Tensors]:
    """`POST /v2/models/{model}/infer` with arrays in binary. Raises UsageError for what is no array."""
    from raydc.client import tensors

    content, size = tensors.encode(inputs, outputs)
    headers = {"content-type": "application/octet-stream", tensors.HEADER: str(size)}
    return Operation(
        "POST", f"{_model_path(model, version)}/infer", tensors.decode, content, headers
    )


def metadata(model: str, version: str | None = None) -> Operation[Metadata]:
    """`GET /v2/models/{model}`."""
    return Operation("GET", _model_path(model, version), parse_metadata)


def ready() -> Operation[Reply]:
    """`GET /v2/health/ready`."""
    return Operation("GET", "/v2/health/ready", lambda reply: reply)


def model_name() -> Operation[str]:
    """The model that answers; every answer of raydc names it."""
    return Operation("GET", "/v2/health/ready", _named_model)


def _named_model(reply: Reply) -> str:
    if "x-raydc-model" not in reply.headers:
        raise ServeError(
            "the endpoint does not say which model it serves", "Give model=... to the client."
        )
    return reply.headers["x-raydc-model"]


def _model_path(model: str, version: str | None) -> str:
    path = f"/v2/models/{urllib.parse.quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{urllib.parse.quote(version, safe='')}"


def _encode_rows(rows: Sequence[Row]) -> bytes:
    if isinstance(rows, Mapping):
        raise UsageError("rows is one row", "Give a list of rows: [{...}].")
    try:
        return json.dumps({"rows": list(rows)}, allow_nan=False, default=_plain).encode()
    except (ValueError, TypeError) as error:
        raise UsageError(_odd_value(rows) or f"rows cannot be sent as JSON: {error}") from error


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r:.40} is of type {type(value).__name__}, for which JSON has no value")


def _odd_value(rows: Sequence[Row]) -> str | None:
    for index, row in enumerate(rows):
        for name, value in row.items() if isinstance(row, Mapping) else ():
            plain = value.item() if hasattr(value, "item") else value
            if isinstance(plain, float) and not math.isfinite(plain):
                return f"rows[{index}].{name} is {plain}, which JSON cannot say; give None where a value is missing"
    return None


def _encode_image(image: Any) -> tuple[bytes, str]:
    """Bytes of an image file and their content type."""
    if isinstance(image, str | PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise UsageError(f"image {image}: {error.strerror}") from error
    if not isinstance(image, bytes | bytearray | memoryview):
        image = _png(image)
    content = bytes(image)
    for magic, kind in _TYPES.items():
        if content.startswith(magic):
            return content, kind
    return content, "image/*"


def _png(pixels: Any) -> bytes:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] without loss."""
    import numpy as np
    from PIL import Image

    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise UsageError(
            f"an image of dtype {array.dtype} and shape {list(array.shape)}",
            "Give uint8 [H, W] or [H, W, 3].",
        )
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", compress_level=1)
    return file.getvalue()
