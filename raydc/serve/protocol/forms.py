"""Forms and files as browsers and `curl -F` send them. Runs in the replica.

Multipart bodies are parsed by python-multipart, the parser that Starlette uses. The whole body is
in memory and within `max_request_bytes` already, so the parser gets it in one piece.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import urllib.parse
from dataclasses import dataclass
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from raydc.errors import shown
from raydc.serve.protocol.interface import RequestError

# Per header line. A browser sends two or three lines; the longest holds the name of a file.
_MAX_HEADER_BYTES = 4096
_MAX_HEADERS_PER_PART = 8
_MAX_BOUNDARY_BYTES = 70  # RFC 2046
# Text in a file that merely starts like a delimiter costs the parser two microseconds of Python
# each; a body full of it would keep a thread busy for seconds.
_MAX_FALSE_DELIMITERS = 1000

# The parser warns of each broken form. The client gets that message as its answer; in the log it
# would let anybody write as many lines as they like.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True)
class FormPart:
    """A field or a file of a form. `media_type` is empty if the part declares none."""

    name: str
    content: bytes
    is_file: bool
    media_type: str

    @property
    def text(self) -> str:
        """Content as text. Raises RequestError 400 if it is not UTF-8."""
        return decode_utf8(self.content, f"field {shown(self.name)}")


def parse_multipart(body: bytes, content_type: str, max_parts: int) -> list[FormPart]:
    """Splits a multipart/form-data body into its parts.

    Args:
        body: Body of the request, already limited by `max_request_bytes`.
        content_type: The request's header, which names the boundary.
        max_parts: Fields and files that a form may have together.

    Raises:
        RequestError: 400 if the body is not a form, 413 if it has more than `max_parts` parts.
    """
    boundary = _boundary(content_type)
    if body.count(b"\r\n--" + boundary) > max_parts + _MAX_FALSE_DELIMITERS:
        raise RequestError(413, f"the form has more than {max_parts} parts")
    collector = _PartCollector(max_parts)
    try:
        parser = MultipartParser(
            boundary,
            collector.callbacks(),
            max_header_count=_MAX_HEADERS_PER_PART,
            max_header_size=_MAX_HEADER_BYTES,
        )
        parser.write(body)
    except FormParserError as error:
        if collector.num_begun == 0:
            raise RequestError(
                400, "the form does not begin with the boundary of its content-type"
            ) from error
        raise RequestError(400, f"the form cannot be parsed: {error}") from error
    # A body that ends early is not an error for the parser, which would wait for the rest.
    if not collector.is_complete:
        raise RequestError(400, "the form is cut off")
    return collector.parts


class _PartCollector:
    """Receives the events of the parser and builds the parts."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[FormPart] = []
        self.is_complete = False
        self._max_parts = max_parts
        self.num_begun = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._content: list[bytes] = []
        self._name = ""
        self._is_file = False

    def callbacks(self) -> Any:
        """Table of events as `MultipartParser` takes it."""
        names = "part_begin part_data part_end header_field header_value headers_finished end"
        return {f"on_{name}": getattr(self, f"_on_{name}") for name in names.split()}

    def _on_part_begin(self) -> None:
        # Counted at its start: what follows the last part that is allowed is never collected.
        self.num_begun += 1
        if self.num_begun > self._max_parts:
            raise RequestError(413, f"the form has more than {self._max_parts} parts")
        self._headers = {}
        self._content = []

    # The body is written in one piece, so a header comes in one event, not in fragments.
    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name = data[start:end].lower()

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._header_name] = data[start:end]

    def _on_headers_finished(self) -> None:
        place = f"part {self.num_begun - 1} of the form"
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise RequestError(400, f"{place} has no name")
        self._name = decode_utf8(options[b"name"], f"the name of {place}")
        self._is_file = b"filename" in options

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def _on_part_end(self) -> None:
        media_type = self._headers.get(b"content-type", b"").decode("latin-1")
        media_type = media_type.partition(";")[0].strip().lower()
        content = b"".join(self._content)
        self.parts.append(FormPart(self._name, content, self._is_file, media_type))

    def _on_end(self) -> None:
        self.is_complete = True


def _boundary(content_type: str) -> bytes:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY_BYTES:
        raise RequestError(400, "content-type of a form needs a boundary of 1 to 70 characters")
    return boundary


def parse_urlencoded(body: bytes, max_fields: int) -> list[FormPart]:
    """Splits an application/x-www-form-urlencoded body into its fields. Raises RequestError 400."""
    try:
        pairs = urllib.parse.parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=max_fields,
        )
    except ValueError as error:
        raise RequestError(400, f"the form cannot be parsed: {error}") from error
    return [FormPart(name, value.encode(), is_file=False, media_type="") for name, value in pairs]


def form_row(parts: list[FormPart]) -> dict[str, Any]:
    """Turns fields into a row; an empty field is a missing value.

    Raises:
        RequestError: 400 if a field is given twice or is not UTF-8.
    """
    values: dict[str, Any] = {}
    for part in parts:
        if part.name in values:
            raise RequestError(
                400, f"field {shown(part.name)} is given twice; send JSON for several rows"
            )
        values[part.name] = part.text or None
    return values


def parse_csv(body: bytes, columns: list[str], max_rows: int) -> list[dict[str, Any]]:
    """Reads the rows of a CSV file; an empty cell is a missing value.

    Args:
        body: The file. If its first line contains a column's name, that line is the header.
        columns: Columns of the model, in the order that a file without a header must have.
        max_rows: Largest number of rows; one more is read so that the caller notices an excess.

    Raises:
        RequestError: 400 with the line.
    """
    # An empty `newline` leaves line ends inside quotes as they are.
    lines = csv.reader(io.StringIO(decode_utf8(body, "the CSV file"), newline=""), strict=True)
    try:
        # +1 for the header, +1 to detect excess rows without reading them all.
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


def decode_utf8(content: bytes, what: str) -> str:
    """Decodes text, with or without a byte order mark. Raises RequestError 400 if it cannot."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"{what} is not UTF-8: {error}") from error
