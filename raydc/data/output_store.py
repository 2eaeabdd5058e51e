"""Outputs of a frozen body for the rows of a data set, kept in files. Written and read in workers.

They are in the folder of the data set, `outputs/<key>/<split>-<number>.<sha256>.npy`, and go with
it. The key stands for everything that the outputs follow from, so no file is ever out of date.
A file that is missing or damaged costs time only: its rows are computed again.

Shape suffixes: B rows.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.data import content_check
from raydc.order import Ids
from raydc.storage import Storage, sha256

FOLDER = "outputs"
_USED = "used.json"
# Bodies whose outputs a data set keeps. Their weights differ, as for several folds or seeds.
_MOST_KEYS = 4
_CHUNK_BYTES = 64 * 1024 * 1024
# A chunk is lost work if its worker dies.
_CHUNK_ROWS = 1024
_Array = npt.NDArray[np.float32]


class OutputStore:
    """Outputs of all rows of one split.

    Args:
        data_folder: Folder of the prepared data set.
        key: Name of the folder of these outputs.
        split: Name of the split that the rows are of.
        num_rows: Number of rows in the split.
        shape: Shape of the outputs of one row.
        block_rows: Rows that are computed together; a chunk holds whole blocks.
    """

    def __init__(
        self,
        data_folder: Storage,
        key: str,
        split: str,
        num_rows: int,
        shape: Sequence[int],
        block_rows: int,
    ) -> None:
        self._folder = data_folder / FOLDER / key
        self._split = split
        self._num_rows = num_rows
        row_bytes = max(1, int(np.prod(shape)) * np.dtype(np.float32).itemsize)
        rows = min(_CHUNK_ROWS, _CHUNK_BYTES // row_bytes)
        self.rows_per_chunk = max(1, rows // block_rows) * block_rows
        self.num_bytes = num_rows * row_bytes
        self._shape = tuple(shape)
        self._names: dict[int, str] = {}
        self._open: dict[int, _Array | None] = {}

    @property
    def num_chunks(self) -> int:
        """Number of files when all rows are kept."""
        return -(-self._num_rows // self.rows_per_chunk)

    def look(self) -> list[bool]:
        """Lists which chunks there are."""
        self._names = {}
        for name in sorted(self._folder.names(), reverse=True):
            split, _, rest = name.partition("-")
            if split == self._split and rest.endswith(".npy"):
                # Equal bits give equal names; if files differ, all workers take the first.
                self._names[int(rest.partition(".")[0])] = name
        self._open = {}
        return [index in self._names for index in range(self.num_chunks)]

    def rows_of(self, index: int) -> Ids:
        """Positions of the rows of a chunk, int64."""
        first = index * self.rows_per_chunk
        last = min(first + self.rows_per_chunk, self._num_rows)
        return np.arange(first, last, dtype=np.int64)

    def write(self, index: int, outputs: _Array) -> None:
        """Keeps a chunk.

        Args:
            index: Number of the chunk, from 0.
            outputs: Outputs of its rows, [B, *shape].

        Raises:
            OSError: Storage does not take it.
        """
        file = io.BytesIO()
        np.save(file, outputs, allow_pickle=False)
        content = file.getvalue()
        self._folder.write_bytes(f"{self._split}-{index:05d}.{sha256(content)}.npy", content)

    def gather(self, positions: Ids) -> tuple[_Array, npt.NDArray[np.bool_]]:
        """Copies outputs of rows that are kept.

        Args:
            positions: int64 [B], positions of rows in the split.

        Returns:
            float32 [B, *shape], and bool [B]: whether the row is kept; where it is not, the outputs
            are undefined.
        """
        outputs = np.empty((len(positions), *self._shape), dtype=np.float32)
        is_kept_B = np.zeros(len(positions), dtype=bool)
        chunks_B = positions // self.rows_per_chunk
        for index in np.unique(chunks_B).tolist():
            chunk = self._chunk(index)
            if chunk is not None:
                mine_B = chunks_B == index
                outputs[mine_B] = chunk[positions[mine_B] - index * self.rows_per_chunk]
                is_kept_B |= mine_B
        return outputs, is_kept_B

    def _chunk(self, index: int) -> _Array | None:
        if index not in self._open:
            self._open[index] = None
            # Files may be deleted at any time, with those of old bodies or by `raydc rm`.
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._open[index] = self._map(self._names[index], len(self.rows_of(index)))
        return self._open[index]

    def _map(self, name: str, num_rows: int) -> _Array | None:
        path = self._intact_path(name)
        if path is None:
            # The next start of workers computes it again.
            self._folder.delete(name)
            return None
        found: _Array = np.load(path, mmap_mode="r", allow_pickle=False)
        is_right = found.shape == (num_rows, *self._shape) and found.dtype == np.float32
        return found if is_right else None

    def _intact_path(self, name: str) -> Path | None:
        """Path of a file on this machine; None if the file is damaged."""
        if self._folder.is_local:
            path = self._folder.local_path / name
            return path if _is_intact(path) else None
        path = content_check.cache_folder() / sha256(self._folder.uri.encode())[:16] / name
        # A damaged copy is replaced from the storage, which is cheaper than computing it again.
        if not path.is_file() or not _is_intact(path):
            Storage(str(path.parent)).write_bytes(name, self._folder.read_bytes(name))
        return path if _is_intact(path) else None


def _is_intact(path: Path) -> bool:
    """Whether a file has the sha256 in its name."""
    entry: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": path.name.split(".")[1]}
    return content_check.compare(path, entry) is None


def note_use(data_folder: Storage, key: str) -> None:
    """Notes that a key is used now, and removes those of a data set that were not used for longest.

    Args:
        data_folder: Folder of the prepared data set.
        key: Key that a run is about to use.
    """
    folder = data_folder / FOLDER
    (folder / key).write_json(_USED, {"time_s": round(time.time(), 3)})

    def last_use_s(name: str) -> float:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return float((folder / name).read_json(_USED)["time_s"])
        return 0.0

    others = sorted((name for name in folder.names() if name != key), key=last_use_s)
    for name in others[: max(0, len(others) + 1 - _MOST_KEYS)]:
        folder.delete(name)
