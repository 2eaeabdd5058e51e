"""Recognises files that are something else than their names say. Used where files are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow import fs as pafs

from raydc.data.layout import Format, name_errors
from raydc.errors import DataError

HEAD_BYTES = 64
_GZIP = b"\x1f\x8b\x08"
# A page follows the name, and begins with this byte; a column of a CSV file may be called PAR1.
_PARQUET = b"PAR1\x15"
_SHEET = "Save its sheet as CSV."
# First bytes of a file, what it is, and what to do.
_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Type git lfs pull."),
    (b"PK\x03\x04", "a ZIP archive, or a workbook of Excel", f"Unpack it. {_SHEET}"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an old Excel or Word", _SHEET),
    (b"%PDF-", "a PDF document", "Tables in it must be saved as CSV."),
    (b"SQLite format 3\0", "an SQLite database", "Give data.source: {sql, connection, key}."),
    (_GZIP, "compressed with gzip", "End its name in .gz."),
    (_PARQUET, "a Parquet file", "End its name in .parquet, or set data.format."),
    (b"\x93NUMPY", "an array of NumPy", "End its name in .npy."),
    (b"<!doctype html", "an HTML page", "A server has sent it in place of the file."),
    (b"<html", "an HTML page", "A server has sent it in place of the file."),
)
_OWN: dict[Format, tuple[bytes, ...]] = {
    "parquet": (_PARQUET,),
    "numpy": (b"PK\x03\x04", b"\x93NUMPY"),
}


def other_kind(head: bytes, own: Format) -> tuple[str, str] | None:
    """What a file is, and what to do about it; None if it may be of the format.

    Args:
        head: First bytes of the file.
        own: Format that it should have.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, what, hint in _STARTS:
        if (head.startswith(mark) or start.startswith(mark)) and mark not in _OWN.get(own, ()):
            return what, hint
    return None


def refuse_other_kind(path: str, head: bytes, own: Format) -> None:
    """Refuses a file that is known to be of another kind.

    Args:
        path: Path of the file, for the message.
        head: Its first bytes.
        own: Format that it should have.

    Raises:
        DataError: It is something else.
    """
    if found := other_kind(head, own):
        raise DataError(f"{path}: it is {found[0]}", found[1])


@contextmanager
def name_faults(filesystem: pafs.FileSystem, path: str, own: Format) -> Iterator[None]:
    """Does what `layout.name_errors` does, and says if the file is something else.

    Args:
        filesystem: Filesystem of the file.
        path: File that the block reads.
        own: Format that it should have.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with name_errors(path):
            yield
    except DataError:
        # Looked at only now, so that a good file is opened once.
        head = _head_of(filesystem, path)
        # The name of a damaged .gz file says already what it is.
        if not (path.endswith(".gz") and head.startswith(_GZIP)):
            refuse_other_kind(path, head, own)
        raise


def _head_of(filesystem: pafs.FileSystem, path: str) -> bytes:
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read(HEAD_BYTES))
    except OSError:
        return b""
