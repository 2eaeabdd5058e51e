"""Bodies of `/predict`: JSON rows, images, forms, CSV, one raw tensor. Runs in the replica.

Each becomes the network's inputs. B is the number of rows.
"""

from __future__ import annotations

import urllib.parse
from typing import Any, NamedTuple

import numpy.typing as npt

from raydc.features import Inputs
from raydc.serve.protocol import binary, forms
from raydc.serve.protocol.interface import Interface, RequestError, check_num_rows, json_type_of
from raydc.serve.protocol.open_inference import parse_json, parse_single_tensor

Array = npt.NDArray[Any]

JSON, RAW, CSV = "application/json", "application/octet-stream", "text/csv"
MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
MEDIA_TYPES = (JSON, "image/*", MULTIPART, URLENCODED, CSV, RAW)

# numpy's names, as in `?dtype=float32`. BF16 has none: it is read as float32.
_DATATYPES_BY_DTYPE = {
    str(dtype): datatype for datatype, dtype in binary.DATATYPES.items() if datatype != "BF16"
}
_MAX_SHAPE_CHARS = 100
# Form fields beyond the columns, such as the target, which are ignored or named in an error.
_NUM_SPARE_FIELDS = 100


def media_type_of(content_type: str) -> str:
    """Media type of a content-type header: in lower case, without parameters, JSON if empty."""
    return content_type.partition(";")[0].strip().lower() or JSON


def check_media_type(media_type: str, interface: Interface) -> None:
    """Raises RequestError 415 if the model does not take the media type."""
    if media_type.startswith("image/"):
        if interface.image_column is None:
            raise RequestError(415, "this model takes no images; send application/json")
    elif media_type not in MEDIA_TYPES:
        raise RequestError(
            415, f"content-type is {media_type[:80]!r}; send {', '.join(MEDIA_TYPES)}"
        )


class Body(NamedTuple):
    """The body of a request to `/predict`, and what its headers and query say about it."""

    content: bytes
    content_type: str
    query: str

    def inputs(self, interface: Interface, max_rows: int, max_pixels: int | None = None) -> Inputs:
        """Computes the network's inputs.

        Args:
            interface: Columns and features of the model, which turn rows into inputs.
            max_rows: Largest number of rows, the endpoint's `max_request_rows`.
            max_pixels: Largest number of pixels to decode, all images together; None: no limit.

        Returns:
            Rows as the network takes them.

        Raises:
            RequestError: 400 with the place, 413 if there are too many rows, 415 if the model does
                not take this kind of body.
            DataError: A value does not fit its column or is missing and required, or there are too
                many pixels.
        """
        media_type = media_type_of(self.content_type)
        # `curl -d` declares a form whatever it sends; no form starts with a bracket or brace.
        looks_like_json = media_type == URLENCODED and self.content[:1] in (b"{", b"[")
        if media_type == JSON or looks_like_json:
            rows = parse_rows(parse_json(self.content), max_rows)
        elif media_type == RAW:
            return self._raw_inputs(interface, max_rows, max_pixels)
        elif media_type.startswith("image/"):
            return _image_inputs([self.content], interface, max_pixels)
        elif media_type == MULTIPART:
            # A form has either a file per row, or a field per column.
            parts = forms.parse_multipart(
                self.content, self.content_type, max_rows + len(interface.kinds)
            )
            files = [part for part in parts if part.is_file]
            if files:
                return _file_inputs(files, len(parts), interface, max_rows, max_pixels)
            rows = [forms.form_row(parts)]
        elif media_type == URLENCODED:
            max_fields = len(interface.kinds) + _NUM_SPARE_FIELDS
            rows = [forms.form_row(forms.parse_urlencoded(self.content, max_fields))]
        else:
            rows = forms.parse_csv(self.content, list(interface.kinds), max_rows)
            check_num_rows(len(rows), max_rows, "the CSV file")
            if not rows:
                raise RequestError(400, "the CSV file has no rows")
        return interface.features.apply_given(interface.features.from_json_rows(rows), max_pixels)

    def _raw_inputs(self, interface: Interface, max_rows: int, max_pixels: int | None) -> Inputs:
        query = {name: values[-1] for name, values in urllib.parse.parse_qs(self.query).items()}
        datatype = query.get("dtype")
        if datatype is not None:
            datatype = _DATATYPES_BY_DTYPE.get(datatype, datatype)
            if datatype not in binary.DATATYPES:
                raise RequestError(
                    400,
                    f"dtype is {datatype[:80]!r}; known dtypes: {', '.join(_DATATYPES_BY_DTYPE)}",
                )
        shape = _parse_shape(query["shape"]) if "shape" in query else None
        name, values = parse_single_tensor(
            self.content, datatype, shape, interface, max_rows, "body"
        )
        if name == interface.all_columns:
            return interface.features.apply_numbers(values)
        return interface.features.apply_given({name: values}, max_pixels)


def _parse_shape(text: str) -> list[int]:
    # Cut before int(), which is quadratic in the number of digits.
    sizes = text[:_MAX_SHAPE_CHARS].strip("[]()").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise RequestError(
            400, f"shape is {text[:_MAX_SHAPE_CHARS]!r}; give integers above 0, such as 1,28,28"
        )
    return [int(size) for size in sizes]


def _image_inputs(files: list[bytes], interface: Interface, max_pixels: int | None) -> Inputs:
    if interface.image_column is None:
        raise RequestError(415, "this model takes no images; send application/json")
    if not all(files):
        raise RequestError(400, "the image is empty")
    return interface.features.apply_given({interface.image_column: files}, max_pixels)


def _file_inputs(
    files: list[forms.FormPart],
    num_parts: int,
    interface: Interface,
    max_rows: int,
    max_pixels: int | None,
) -> Inputs:
    """Inputs of a form with files: one file of rows, or an image per row."""
    if len(files) < num_parts:
        raise RequestError(400, "the form has files and other fields; send one or the other")
    if interface.image_column is None:
        # Only JSON and CSV, which hold no files: a form within a form is not opened.
        if len(files) == 1 and files[0].media_type in (JSON, CSV):
            body = Body(files[0].content, files[0].media_type, "")
            return body.inputs(interface, max_rows, max_pixels)
        raise RequestError(
            415,
            "this model takes no images; send one file of application/json or text/csv, or fields",
        )
    check_num_rows(len(files), max_rows, "the form")
    return _image_inputs([file.content for file in files], interface, max_pixels)


def parse_rows(value: Any, max_rows: int) -> list[dict[str, Any]]:
    """Checks the rows of a JSON body: `{"rows": [...]}`, or a list of rows.

    Raises:
        RequestError: 400 with the place, 413 if there are too many.
    """
    if isinstance(value, dict):
        unknown = [key for key in value if key != "rows"]
        if unknown or "rows" not in value:
            # Keys come from the client: cut, so that the message stays short.
            keys = ", ".join(repr(key[:80]) for key in list(value)[:10])
            got = f"; got the keys {keys}" if value else ""
            raise RequestError(
                400, f'the body must be {{"rows": [{{"column": value, ...}}, ...]}}{got}'
            )
        value = value["rows"]
    if not isinstance(value, list):
        raise RequestError(400, f"rows must be a list of rows, not {json_type_of(value)}")
    if not value:
        raise RequestError(400, "rows is empty")
    check_num_rows(len(value), max_rows, "the body")
    for index, row in enumerate(value):
        if not isinstance(row, dict):
            raise RequestError(
                400, f"rows[{index}] must be an object of columns, not {json_type_of(row)}"
            )
    return value
