"""A file that is mapped into memory, and what the kernel is told about its pages. In workers.

Pure, but for the file.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

# The kernel reads no more than its own read-ahead for one piece of advice, which is 128 KiB unless
# somebody has changed it.
_ADVICE_BYTES = 128 * 1024
_PAGE_BYTES = mmap.PAGESIZE


class MappedFile:
    """A file as memory that cannot be written.

    Args:
        path: A file that is not empty, on a disk of this machine.
        advice: How it is going to be read, for `mmap.madvise`.

    Attributes:
        buffer: The bytes of the file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is empty.
    """

    def __init__(self, path: Path, advice: int) -> None:
        with path.open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._mapping.madvise(advice)
        self._path = path
        self.buffer = pa.py_buffer(self._mapping)

    def prefetch(self, arrays: Iterable[npt.NDArray[Any]]) -> None:
        """Makes the kernel read pages that will be used soon. Does not wait for them.

        Args:
            arrays: Contiguous arrays in the mapping; those without items may lie anywhere.
        """
        for array in arrays:
            if not array.nbytes:
                continue
            first = array.ctypes.data - self.buffer.address
            stop, start = first + array.nbytes, first // _PAGE_BYTES * _PAGE_BYTES
            for begin in range(start, stop, _ADVICE_BYTES):
                length = min(_ADVICE_BYTES, stop - begin)
                self._mapping.madvise(mmap.MADV_WILLNEED, begin, length)

    def forget(self, arrays: Iterable[npt.NDArray[Any]]) -> None:
        """Drops pages that are not used again for a while, or others that are needed would go.

        Args:
            arrays: Contiguous arrays in the mapping. Pages that hold something else too are kept.
        """
        file = os.open(self._path, os.O_RDONLY)
        try:
            for array in arrays:
                first = array.ctypes.data - self.buffer.address
                start = -(-first // _PAGE_BYTES) * _PAGE_BYTES
                length = (first + array.nbytes) // _PAGE_BYTES * _PAGE_BYTES - start
                if length > 0:
                    # The page cache keeps pages that a process has mapped.
                    self._mapping.madvise(mmap.MADV_DONTNEED, start, length)
                    os.posix_fadvise(file, start, length, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
