"""Files of a data set in their stable order, and the ids of their rows. Pure; used everywhere.

A row's id is `file index << 40 | row in the file`. Files are in the order of their names, those of
a validation part after those of the training part, those of a test part last. An id is a place in
the sources and never depends on the order in which rows arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydc.errors import REPORT_IT, DataError, RaydcError, first_line, unexpected
from raydc.order import Ids

Format = Literal["csv", "parquet", "jsonl", "image_folder", "idx", "numpy", "tar", "text"]
Part = Literal["train", "validation", "test"]

# 2**40 rows per file leave 23 bits, 8 million files, below the sign bit of an int64.
_ROW_BITS = 40
_COMPRESSION = (".gz", ".bz2", ".zst")
DAMAGED = "The file is damaged or was cut off; write or download it again."


@dataclass(frozen=True)
class SourceFile:
    """One file of rows.

    Attributes:
        name: Path relative to its source, with `/`; does not change when the source is moved.
        path: Path on the filesystem of the layout.
        num_bytes: Size of the file, compressed as it is.
        part: Official part that the file belongs to.
        label: Class of an image in a folder; None for other formats.
        labels: File of labels that belongs to IDX images; None for other formats.
    """

    name: str
    path: str
    num_bytes: int
    part: Part
    label: str | None = None
    labels: SourceFile | None = None

    def describe_row(self, format_: Format, row_id: int) -> str:
        """Names a row of this file for messages: its path, and its number counted from 1."""
        if format_ == "image_folder":
            return self.path
        unit = {"jsonl": "line", "idx": "image", "tar": "sample", "text": "line"}.get(
            format_, "row"
        )
        return f"{self.path}: {unit} {row_number(row_id)}"


@dataclass(frozen=True)
class Layout:
    """All files of a data set, in the order of their row ids.

    Attributes:
        format: Format of every file.
        filesystem: Filesystem of every path.
        files: Training files, then validation files, then test files, each sorted by name.
        notes: What the user should know about the names of the files.
        describe: Names a row, if its number in the file says nothing; None for other files.
    """

    format: Format
    filesystem: pafs.FileSystem
    files: tuple[SourceFile, ...]
    notes: tuple[str, ...] = ()
    describe: Callable[[int], str] | None = field(default=None, compare=False)

    @property
    def first_validation_id(self) -> int | None:
        """Lowest row id of the official validation part; None if the sources have no such part."""
        return self._first_id("validation")

    @property
    def first_test_id(self) -> int | None:
        """Lowest row id of the official test part; None if the sources have no such part."""
        return self._first_id("test")

    def _first_id(self, part: Part) -> int | None:
        return next(
            (first_row_id(i) for i, file in enumerate(self.files) if file.part == part), None
        )

    def describe_row(self, row_id: int) -> str:
        """Names a row for messages: its file, and its number counted from 1."""
        if self.describe is not None:
            return self.describe(row_id)
        return self.file_of(row_id).describe_row(self.format, row_id)

    def file_of(self, row_id: int) -> SourceFile:
        """The file that holds a row."""
        return self.files[row_id >> _ROW_BITS]


def first_row_id(file_index: int) -> int:
    """Id of the first row of a file, whose index counts through all files of the layout."""
    return file_index << _ROW_BITS


def row_number(row_id: int) -> int:
    """Number of a row in its file, counted from 1."""
    return (row_id & ((1 << _ROW_BITS) - 1)) + 1


def file_indices(row_ids: Ids) -> tuple[int, ...]:
    """Sorted indices of the files that hold some rows."""
    return tuple(np.unique(row_ids >> _ROW_BITS).tolist())


def plain_suffix(name: str) -> str:
    """Suffix of a file name in lower case, ignoring the suffix of a compression."""
    name = without_compression(name.lower())
    return name[name.rfind(".") :] if "." in name else ""


def without_compression(name: str) -> str:
    """File name without the suffix of a compression."""
    for suffix in _COMPRESSION:
        name = name.removesuffix(suffix)
    return name


@contextmanager
def name_errors(path: str) -> Iterator[None]:
    """Turns errors of libraries inside the block into a DataError that names a file.

    Args:
        path: File that the block reads, for the message.

    Raises:
        DataError: The file is missing, cannot be read, or is not what its format says.
    """
    try:
        yield
    except RaydcError:
        raise
    except FileNotFoundError as error:
        # The driver has listed the file, so another node does not see the same filesystem.
        hint = "Every node must reach the sources: put them on shared storage, or give a URI."
        raise DataError(f"{path} does not exist on this node", hint) from error
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}", DAMAGED) from error
    # What a library raises on a strange file can be of any type.
    except Exception as error:
        raise DataError(f"{path} cannot be read: {unexpected(error)}", REPORT_IT) from error
