"""Forms and files of a browser or of `curl -F`: multipart/form-data, url-encoded fields, CSV.

The body lies in memory already and has a limit, so it is split in one go; no parser for streams is needed.
"""

from __future__ import annotations

import csv
import email.message
import email.parser
import io
import itertools
import urllib.parse
from dataclasses import dataclass
from typing import Any

from raydc.errors import shown
from raydc.serve.protocol.interface import RequestError

_MAX_HEAD_BYTES = 4096
_MAX_BOUNDARY_BYTES = 70  # RFC 2046


@dataclass(frozen=True)
class FormPart:
    """A field or a file of a form. `kind` is its media type, empty where it has none."""

    name: str
    content: bytes
    is_file: bool
    kind: str

    @property
    def text(self) -> str:
        """Raises RequestError 400 where it is not UTF-8."""
        return decode(self.content, f"field {shown(self.name)}")


def multipart(body: bytes, content_type: str, max_parts: int) -> list[FormPart]:
    """The parts of a multipart/form-data body.

    Raises:
        RequestError: 400 where it is none, 413 where there are more parts than may be.
    """
    delimiter = b"\r\n--" + _boundary(content_type)
    # One more than may be, so that what is left over is seen; and one for what stands before the first.
    pieces = (b"\r\n" + body).split(delimiter, max_parts + 2)
    if len(pieces) > max_parts + 2:
        raise RequestError(413, f"the form has more than {max_parts} parts")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise RequestError(
            400, "the form is cut off, or its boundary is not that of the content-type"
        )
    return [_part(index, piece) for index, piece in enumerate(pieces[1:-1])]


def _boundary(content_type: str) -> bytes:
    header = email.message.Message()
    header["content-type"] = content_type[:_MAX_HEAD_BYTES]
    boundary = header.get_boundary("").encode(errors="replace")
    if not 0 < len(boundary) <= _MAX_BOUNDARY_BYTES:
        raise RequestError(400, "content-type of a form needs a boundary of 1 to 70 characters")
    return boundary


def _part(index: int, piece: bytes) -> FormPart:
    head, found, content = piece.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"\r\n") or len(head) > _MAX_HEAD_BYTES:
        raise RequestError(
            400,
            f"part {index} of the form has no head, or one of more than {_MAX_HEAD_BYTES} bytes",
        )
    headers = email.parser.BytesHeaderParser().parsebytes(head[2:])
    name = headers.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise RequestError(400, f"part {index} of the form has no name")
    kind = headers.get_content_type() if "content-type" in headers else ""
    return FormPart(name, content, headers.get_filename() is not None, kind)


def urlencoded(body: bytes, max_fields: int) -> list[FormPart]:
    """The fields of an application/x-www-form-urlencoded body. Raises RequestError 400."""
    try:
        pairs = urllib.parse.parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=max_fields,
        )
    except ValueError as error:
        raise RequestError(400, f"the form cannot be read: {error}") from error
    return [FormPart(name, value.encode(), is_file=False, kind="") for name, value in pairs]


def row(parts: list[FormPart]) -> dict[str, Any]:
    """Fields as a row; an empty one is missing. Raises RequestError 400 where one is given twice."""
    values: dict[str, Any] = {}
    for part in parts:
        if part.name in values:
            raise RequestError(
                400, f"field {shown(part.name)} is given twice; send JSON for several rows"
            )
        values[part.name] = part.text or None
    return values


def csv_rows(body: bytes, columns: list[str], max_rows: int) -> list[dict[str, Any]]:
    """Rows of a CSV file, whose first line may have the names of the columns; without it, all in their order.

    Raises:
        RequestError: 400 with the line.
    """
    lines = csv.reader(io.StringIO(decode(body, "the CSV file"), newline=""), strict=True)
    try:
        records = [record for record in itertools.islice(lines, max_rows + 2) if record]
    except csv.Error as error:
        raise RequestError(400, f"line {lines.line_num} of the CSV file: {error}") from error
    names = columns
    if records and set(records[0]) & set(columns):
        names = records.pop(0)
        if len(set(names)) < len(names):
            raise RequestError(400, "the first line of the CSV file has a column twice")
    for index, record in enumerate(records):
        if len(record) != len(names):
            raise RequestError(
                400, f"rows[{index}] of the CSV file has {len(record)} cells, expected {len(names)}"
            )
    return [
        {name: cell or None for name, cell in zip(names, record, strict=True)} for record in records
    ]


def decode(content: bytes, what: str) -> str:
    """Raises RequestError 400 where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"{what} is not UTF-8: {error}") from error
