"""Bodies of `/predict` to network inputs: JSON rows, images, forms, CSV, one raw tensor.

B is the number of rows.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from raydc.serve.protocol import binary, forms
from raydc.serve.protocol.interface import Interface, RequestError, check_rows, kind_of
from raydc.serve.protocol.open_inference import parse_json, parse_raw

Array = npt.NDArray[Any]

JSON, RAW, CSV = "application/json", "application/octet-stream", "text/csv"
MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
KINDS = (JSON, "image/*", MULTIPART, URLENCODED, CSV, RAW)

_DTYPES = {
    str(dtype): datatype for datatype, dtype in binary.DATATYPES.items() if datatype != "BF16"
}
_MAX_SHAPE_CHARS = 100


def media_type(content_type: str) -> str:
    """`application/json` of `application/json; charset=utf-8`, and where there is none."""
    return content_type.partition(";")[0].strip().lower() or JSON


def check_kind(kind: str, interface: Interface) -> None:
    """Raises RequestError 415 for a media type that the model does not take."""
    if kind.startswith("image/"):
        if interface.image_column is None:
            raise RequestError(415, "this model takes no images; send application/json")
    elif kind not in KINDS:
        raise RequestError(415, f"content-type is {kind[:80]!r}; send {', '.join(KINDS)}")


@dataclass(frozen=True)
class Body:
    """The body of a request to `/predict`, with what its headers and its query say of it."""

    content: bytes
    content_type: str
    query: str

    def inputs(self, interface: Interface, max_rows: int, max_pixels: int | None = None) -> Array:
        """The network's inputs [B, *shape].

        Args:
            interface: Of the model.
            max_rows: Most rows.
            max_pixels: Most pixels to decode.

        Raises:
            RequestError: 400 with the place, 413 where there are too many rows, 415 for what the model does not take.
            DataError: A value that the features do not take.
        """
        kind = media_type(self.content_type)
        # What `curl -d` sends says that it is a form, whatever it is.
        if kind == JSON or (kind == URLENCODED and self.content[:1] in (b"{", b"[")):
            rows = parse_rows(parse_json(self.content), max_rows)
        elif kind == RAW:
            return self._raw_inputs(interface, max_rows, max_pixels)
        elif kind.startswith("image/"):
            return _image_inputs([self.content], interface, max_pixels)
        elif kind == MULTIPART:
            parts = forms.parse_multipart(
                self.content, self.content_type, max_rows + len(interface.kinds)
            )
            files = [part for part in parts if part.is_file]
            if files:
                return _file_inputs(files, len(parts), interface, max_rows, max_pixels)
            rows = [forms.form_row(parts)]
        elif kind == URLENCODED:
            rows = [
                forms.form_row(forms.parse_urlencoded(self.content, len(interface.kinds) + 100))
            ]
        else:
            rows = forms.parse_csv(self.content, list(interface.kinds), max_rows)
            check_rows(len(rows), max_rows, "the CSV file")
            if not rows:
                raise RequestError(400, "the CSV file has no rows")
        return interface.features.apply(interface.features.from_json_rows(rows), max_pixels)

    def _raw_inputs(self, interface: Interface, max_rows: int, max_pixels: int | None) -> Array:
        query = {name: values[-1] for name, values in urllib.parse.parse_qs(self.query).items()}
        datatype = query.get("dtype")
        if datatype is not None:
            datatype = _DTYPES.get(datatype, datatype)
            if datatype not in binary.DATATYPES:
                raise RequestError(
                    400, f"dtype is {datatype[:80]!r}; known are {', '.join(_DTYPES)}"
                )
        shape = _parse_shape(query["shape"]) if "shape" in query else None
        name, values = parse_raw(self.content, datatype, shape, interface, max_rows, "body")
        if name == interface.all_columns:
            return interface.features.apply_numbers(values)
        return interface.features.apply({name: values}, max_pixels)


def _parse_shape(text: str) -> list[int]:
    sizes = text[:_MAX_SHAPE_CHARS].strip("[]()").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise RequestError(
            400, f"shape is {text[:_MAX_SHAPE_CHARS]!r}; give whole numbers above 0 as in 1,28,28"
        )
    return [int(size) for size in sizes]


def _image_inputs(files: list[bytes], interface: Interface, max_pixels: int | None) -> Array:
    if interface.image_column is None:
        raise RequestError(415, "this model takes no images; send application/json")
    if not all(files):
        raise RequestError(400, "the image is empty")
    return interface.features.apply({interface.image_column: files}, max_pixels)


def _file_inputs(
    files: list[forms.FormPart],
    num_parts: int,
    interface: Interface,
    max_rows: int,
    max_pixels: int | None,
) -> Array:
    """A file of rows, or images: a row each."""
    if len(files) < num_parts:
        raise RequestError(400, "the form has files and other fields; send one or the other")
    if interface.image_column is None:
        if len(files) == 1 and files[0].media_type in (JSON, CSV):
            return Body(files[0].content, files[0].media_type, "").inputs(
                interface, max_rows, max_pixels
            )
        raise RequestError(
            415,
            "this model takes no images; send one file of application/json or text/csv, or fields",
        )
    check_rows(len(files), max_rows, "the form")
    return _image_inputs([file.content for file in files], interface, max_pixels)


def parse_rows(value: Any, max_rows: int) -> list[dict[str, Any]]:
    """The rows of a JSON body: `{"rows": [...]}`, or a list of rows.

    Raises:
        RequestError: 400 with the place, 413 where there are too many.
    """
    if isinstance(value, dict):
        unknown = [key for key in value if key != "rows"]
        if unknown or "rows" not in value:
            keys = ", ".join(repr(key[:80]) for key in list(value)[:10])
            got = f"; got the keys {keys}" if value else ""
            raise RequestError(
                400, f'the body must be {{"rows": [{{"column": value, ...}}, ...]}}{got}'
            )
        value = value["rows"]
    if not isinstance(value, list):
        raise RequestError(400, f"rows must be a list of rows, not {kind_of(value)}")
    if not value:
        raise RequestError(400, "rows is empty")
    check_rows(len(value), max_rows, "the body")
    for index, row in enumerate(value):
        if not isinstance(row, dict):
            raise RequestError(
                400, f"rows[{index}] must be an object of columns, not {kind_of(row)}"
            )
    return value
