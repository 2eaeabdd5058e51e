"""Bytes of a CSV file as UTF-8 text without comments. Runs where the file is read.

A file that is UTF-8 and has nothing to leave out is passed on as it is.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs

from raydc.data import values
from raydc.errors import DataError
from raydc.spec.data import Csv

_CHUNK_BYTES = 1024 * 1024
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Unlike `str.splitlines`: a cell may hold U+2028 or U+0085, which end no line of a CSV file.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_DECIMAL_COMMA = r"^\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*$"
_GROUPED = r"^\s*[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?\s*$"


def find_encoding(filesystem: pafs.FileSystem, path: str, form: Csv) -> str:
    """Name of a file's encoding: what the spec says, or what its first bytes show.

    Args:
        filesystem: Filesystem that holds the file.
        path: Path of the file on it.
        form: Section `data.csv` of the spec, for the encoding.
    """
    if form.encoding not in ("auto", "utf-16"):
        return form.encoding
    with filesystem.open_input_stream(path) as stream:
        head = stream.read(2)
    if head in _UTF16_MARKS:
        return "utf-16"
    if form.encoding == "auto":
        return "utf-8"
    # Without a mark, the zero byte of the first letter tells the byte order.
    return "utf-16-be" if head[:1] == b"\0" else "utf-16-le"


def open_utf8(filesystem: pafs.FileSystem, path: str, form: Csv) -> Any:
    """Opens a CSV file as a stream of UTF-8 bytes for pyarrow.

    Args:
        filesystem: Filesystem that holds the file.
        path: Path of the file on it.
        form: Section `data.csv` of the spec, for the encoding.
    """
    encoding = find_encoding(filesystem, path, form)
    stream = filesystem.open_input_stream(path)
    if encoding == "utf-8" and not form.comment and not form.skip_rows:
        return stream
    return pa.PythonFile(_Utf8Lines(stream, path, encoding, form), mode="r")


def ends_in_quotes(filesystem: pafs.FileSystem, path: str, form: Csv) -> bool:
    """Whether the last character of a file, line ends aside, is a quote.

    Args:
        filesystem: Filesystem that holds the file.
        path: Path of the file on it.
        form: Section `data.csv` of the spec, for the encoding and the lines to skip.
    """
    last = b""
    with open_utf8(filesystem, path, form) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            last = chunk.rstrip(b"\r\n")[-1:] or last
    return last == b'"'


class _Utf8Lines(io.RawIOBase):
    """A stream of UTF-8 bytes without the lines that the spec skips."""

    def __init__(self, stream: Any, path: str, encoding: str, form: Csv) -> None:
        super().__init__()
        self._stream = stream
        self._place = f"{path}: not {encoding} text"
        # Bytes that cannot be decoded are passed on, so that a message can name their cell.
        errors = "strict" if encoding.startswith("utf-16") else "surrogateescape"
        name = "utf-8-sig" if encoding == "utf-8" else encoding
        self._decoder = codecs.getincrementaldecoder(name)(errors)
        self._form = form
        self._num_to_skip = form.skip_rows
        self._in_quotes = False
        self._rest = ""
        self._ready = b""
        self._is_done = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._is_done:
            chunk = self._stream.read(_CHUNK_BYTES)
            self._is_done = not chunk
            try:
                text = self._rest + self._decoder.decode(chunk, final=self._is_done)
            except UnicodeDecodeError as error:
                raise DataError(f"{self._place}: {error.reason}", "Is it cut off?") from error
            whole, mark, rest = text.rpartition("\n")
            if self._is_done:
                whole, mark, rest = text, "", ""
            self._rest = rest
            kept = self._keep(_LINE.findall(whole + mark))
            self._ready = kept.encode("utf-8", errors="surrogateescape")
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _keep(self, lines: list[str]) -> str:
        kept = []
        for line in lines:
            if self._num_to_skip:
                self._num_to_skip -= 1
                continue
            # Inside quotes a line is part of a cell, whatever it begins with.
            if self._form.comment and not self._in_quotes and line.startswith(self._form.comment):
                continue
            if self._form.quotes == "double" and line.count('"') % 2:
                self._in_quotes = not self._in_quotes
            kept.append(line)
        return "".join(kept)

    def close(self) -> None:
        self._stream.close()
        super().close()


def with_decimal_points(table: pa.Table) -> pa.Table:
    """Rewrites numbers with a decimal comma: `1.234,5` becomes `1234.5`.

    Other cells stay as they are.
    """
    for position, name in enumerate(table.column_names):
        column = table.column(name)
        if values.is_internal(name) or not pa.types.is_string(column.type):
            continue
        grouped = pc.fill_null(pc.match_substring_regex(column, _GROUPED), False)
        column = pc.if_else(grouped, pc.replace_substring(column, ".", ""), column)
        with_comma = pc.fill_null(pc.match_substring_regex(column, _DECIMAL_COMMA), False)
        column = pc.if_else(with_comma, pc.replace_substring(column, ",", "."), column)
        table = table.set_column(position, name, column)
    return table
