"""The operations of an endpoint: for each the request to send, and how to read its reply.

Pure functions of the client, without a connection.
"""

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

# First bytes of the formats that browsers and cameras write.
_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A request without the address of its endpoint.

    Attributes:
        method: HTTP method.
        path: Path below the address of the endpoint.
        read: Turns a reply of status 200 into the result; raises ServeError.
        content: Body of the request; empty for GET.
        headers: Headers that describe the body.
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def predict(rows: Sequence[Row] | None, image: ImageInput | None) -> Operation[Answer]:
    """Builds `POST /predict` with raw rows or with an image.

    Args:
        rows: Rows as mappings from column to value, or None.
        image: Content, path or pixels of an image, or None.

    Raises:
        UsageError: Neither or both are given, JSON cannot hold a value, or the image is unreadable.
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
    """Builds `POST /v2/models/{model}/infer` with arrays in binary.

    Args:
        model: Name of the model, for the path of the request.
        version: Version that must answer; None accepts any.
        inputs: An array for each input, rows along the first axis.
        outputs: Names of the wanted outputs; None means all.

    Raises:
        UsageError: An input is not an array of a type that the protocol has.
    """
    # Imported late: it needs numpy, which `predict` does not.
    from raydc.client import tensors

    content, size = tensors.encode(inputs, outputs)
    headers = {"content-type": "application/octet-stream", tensors.HEADER: str(size)}
    return Operation(
        "POST", f"{_model_path(model, version)}/infer", tensors.decode, content, headers
    )


def complete(model: str, prompt: str, options: Mapping[str, Any]) -> Operation[Reply]:
    """Builds `POST /v1/completions`, whose reply is returned as it is.

    Args:
        model: Name of the model, or `model:version`.
        prompt: Text that the answer follows.
        options: Further fields in OpenAI's format, such as `max_tokens`.

    Raises:
        UsageError: JSON cannot hold a value.
    """
    return _post_json("/v1/completions", {"model": model, "prompt": prompt, **options})


def chat(
    model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> Operation[Reply]:
    """Builds `POST /v1/chat/completions`, whose reply is returned as it is.

    Args:
        model: Name of the model, or `model:version`.
        messages: Messages with `role` and `content`.
        options: Further fields in OpenAI's format, such as `max_tokens`.

    Raises:
        UsageError: JSON cannot hold a value.
    """
    return _post_json("/v1/chat/completions", {"model": model, "messages": messages, **options})


def _post_json(path: str, value: Mapping[str, Any]) -> Operation[Reply]:
    try:
        content = json.dumps(value, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the request cannot be sent as JSON: {error}") from error
    headers = {"content-type": "application/json"}
    return Operation("POST", path, lambda reply: reply, content.encode(), headers)


def metadata(model: str, version: str | None = None) -> Operation[Metadata]:
    """Builds `GET /v2/models/{model}`, of one version or of the model."""
    return Operation("GET", _model_path(model, version), parse_metadata)


def ready() -> Operation[Reply]:
    """Builds `GET /v2/health/ready`, whose reply is returned as it is."""
    return Operation("GET", "/v2/health/ready", lambda reply: reply)


def model_name() -> Operation[str]:
    """Builds a request that finds out the model's name, which every answer has in a header."""
    return Operation("GET", "/v2/health/ready", _read_model_name)


def _read_model_name(reply: Reply) -> str:
    if "x-raydc-model" not in reply.headers:
        raise ServeError(
            "the endpoint does not say which model it serves", "Give model=... to the client."
        )
    return reply.headers["x-raydc-model"]


def _model_path(model: str, version: str | None) -> str:
    path = f"/v2/models/{urllib.parse.quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{urllib.parse.quote(version, safe='')}"


def _encode_rows(rows: Sequence[Row]) -> bytes:
    # A mapping is iterable too, and would be sent as a list of column names.
    if isinstance(rows, Mapping):
        raise UsageError("rows is a mapping, not a list of rows", "Give a list of rows: [{...}].")
    try:
        return json.dumps({"rows": list(rows)}, allow_nan=False, default=_to_plain).encode()
    except (ValueError, TypeError) as error:
        raise UsageError(
            _find_nonfinite(rows) or f"rows cannot be sent as JSON: {error}"
        ) from error


def _to_plain(value: Any) -> Any:
    """Turns a numpy scalar into a Python number, for `json`."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r:.40} is of type {type(value).__name__}, for which JSON has no value")


def _find_nonfinite(rows: Sequence[Row]) -> str | None:
    """Names the first NaN or infinity: the message of `json` says only that there is one."""
    for index, row in enumerate(rows):
        for name, value in row.items() if isinstance(row, Mapping) else ():
            plain = value.item() if hasattr(value, "item") else value
            if isinstance(plain, float) and not math.isfinite(plain):
                return (
                    f"rows[{index}].{name} is {plain}, which JSON cannot hold; "
                    "give None for a missing value"
                )
    return None


def _encode_image(image: Any) -> tuple[bytes, str]:
    """Returns the bytes of an image file and their content type."""
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
    # The endpoint decodes any format that it knows; the type only says that it is an image.
    return content, "image/*"


def _png(pixels: Any) -> bytes:
    """Encodes uint8 pixels [H, W], [H, W, 1] or [H, W, 3] without loss."""
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
    # Level 1: the network is faster than better compression of a small image.
    Image.fromarray(array).save(file, "PNG", compress_level=1)
    return file.getvalue()
