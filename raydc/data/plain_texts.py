"""Documents of files of plain text. Runs in tasks of Ray Data."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Literal

import pyarrow as pa
from pyarrow import fs as pafs

from raydc.data import file_kind, values
from raydc.data.layout import SourceFile
from raydc.errors import DataError
from raydc.spec.language import TEXT

Documents = Literal["file", "paragraph", "line"]
# Documents differ much in size, so both bound the memory of a table.
_DOCUMENTS_PER_TABLE = 16_384
_CHARACTERS_PER_TABLE = 16 * 1024 * 1024


def read_documents(
    filesystem: pafs.FileSystem, file: SourceFile, documents: Documents
) -> Iterator[pa.Table]:
    """Yields the documents of a file in their order, in the column `language.TEXT`.

    The column `values.ROW_ID` holds the number of the line with which each begins, from 0. All line
    breaks become a line feed; the mark of UTF-8 at the beginning is left out.

    Args:
        filesystem: Filesystem that holds the file.
        file: A file of the source, compressed or not; messages name it.
        documents: What a document is.

    Raises:
        DataError: The file is not text in UTF-8.
    """
    with filesystem.open_input_stream(file.path) as stream, io.BufferedReader(stream) as lines:
        head = lines.peek(file_kind.HEAD_BYTES)[: file_kind.HEAD_BYTES]
        file_kind.refuse_other_kind(file.path, head, "text")
        text = io.TextIOWrapper(lines, encoding="utf-8-sig")
        try:
            yield from _tables(_cut(text, documents))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file.path}: it is not text in UTF-8: {error.reason} at byte {error.start} of a "
                "part of it",
                "Convert it, such as with iconv -t UTF-8.",
            ) from error


def _tables(found: Iterable[tuple[int, str]]) -> Iterator[pa.Table]:
    places: list[int] = []
    texts: list[str] = []
    size = 0
    for place, text in found:
        places.append(place)
        texts.append(text)
        size += len(text)
        if size >= _CHARACTERS_PER_TABLE or len(texts) >= _DOCUMENTS_PER_TABLE:
            yield _table(places, texts)
            places, texts, size = [], [], 0
    if texts:
        yield _table(places, texts)


def _table(places: list[int], texts: list[str]) -> pa.Table:
    return pa.table(
        {values.ROW_ID: pa.array(places, pa.int64()), TEXT: pa.array(texts, pa.string())}
    )


def _cut(lines: io.TextIOWrapper, documents: Documents) -> Iterator[tuple[int, str]]:
    """Yields each document with the number of its first line."""
    if documents == "file":
        if whole := lines.read():
            yield 0, whole
        return
    kept: list[str] = []
    for number, line in enumerate(lines):
        if documents == "line":
            if line.strip():
                yield number, line.removesuffix("\n")
        elif line.strip():
            kept.append(line)
        elif kept:
            yield number - len(kept), "".join(kept).removesuffix("\n")
            kept = []
    if kept:
        yield number + 1 - len(kept), "".join(kept).removesuffix("\n")
