"""Contents of a storage, from one listing of each top-level folder; in the command's process.

An object store charges and waits for each request, so sizes, ages and names come from a recursive
listing, and only the few small files that a table needs are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pyarrow import fs as pafs

from raydc.errors import UsageError, first_line
from raydc.storage import Storage
from raydc.tracking import events

Kind = Literal["runs", "data", "models"]
T = TypeVar("T")
R = TypeVar("R")
# Most of the time of a small read on an object store is waiting.
_NUM_READERS = 16
# Most logs end with what is looked for; each further part is so much larger.
_FIRST_PART_BYTES = 8 * 1024
_PART_GROWTH = 32
_LARGEST_PART_BYTES = 8 * 1024 * 1024
# A run that trains replaces its files while they are listed.
_MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Extent:
    """Size and age of a folder.

    Attributes:
        num_bytes: Size of all its files together.
        num_files: Number of files, in subfolders too.
        changed_s: Unix time of the newest change of a file; None if there is no file.
    """

    num_bytes: int
    num_files: int
    changed_s: float | None


class StoreListing:
    """The files of a storage by kind (`runs`, `data`, `models`) and name.

    Args:
        storage: The storage; each of its three folders is listed when it is first needed.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.damaged: list[str] = []
        """Files that could not be read, each with its reason."""
        self._kinds: dict[Kind, dict[str, dict[str, pafs.FileInfo]]] = {}

    def names(self, kind: Kind) -> list[str]:
        """Sorted names of the folders of a kind, and hidden ones that a killed process left."""
        return sorted(self._of(kind))

    def files(self, kind: Kind, name: str) -> dict[str, pafs.FileInfo]:
        """Files of a folder by their path in it; empty if there is no such folder."""
        return self._of(kind).get(name, {})

    def extent(self, kind: Kind, name: str, under: str = "") -> Extent:
        """Size and age of a folder, or of the part of it below a path.

        Args:
            kind: `runs`, `data` or `models`.
            name: Name of the folder, which is that of the run, data set or model.
            under: Path in the folder that ends with a slash; empty for the whole folder.
        """
        files = self.files(kind, name)
        infos = [info for path, info in files.items() if path.startswith(under)]
        # Some stores do not report modification times.
        changed_ns = max((info.mtime_ns or 0 for info in infos), default=0)
        num_bytes = sum(info.size or 0 for info in infos)
        return Extent(num_bytes, len(infos), changed_ns / 1e9 if changed_ns else None)

    def read_bytes(self, path: str) -> bytes | None:
        """A file by its path in the storage; None and a line in `damaged` if it cannot be read."""
        try:
            return self.storage.read_bytes(path)
        except FileNotFoundError:  # Removed since the listing, which is not damage.
            return None
        except OSError as error:
            self.damaged.append(f"{path}: {error.strerror or first_line(error)}")
            return None

    def read_json(self, path: str) -> dict[str, Any]:
        """A JSON object; empty, and a line in `damaged`, if the file holds something else."""
        content = self.read_bytes(path)
        if content is None:
            return {}
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            self.damaged.append(f"{path}: not JSON: {first_line(error)}")
            return {}
        if not isinstance(value, dict):
            self.damaged.append(f"{path}: not a JSON object")
            return {}
        return value

    def read_lines(self, path: str) -> list[dict[str, Any]]:
        """The records of a JSON Lines file.

        Args:
            path: Path in the storage.

        Returns:
            The records. A torn line, as a killed writer leaves one, is left out; a file without a
            single record is noted in `damaged`.
        """
        content = self.read_bytes(path)
        records = []
        for line in (content or b"").splitlines():
            if (record := events.parse_line(line)) is not None:
                records.append(record)
        if content and not records:
            self.damaged.append(f"{path}: holds no JSON line")
        return records

    def map(self, function: Callable[[T], R], values: Iterable[T]) -> list[R]:
        """Applies a function that reads small files to each value, several at a time, in order."""
        # A disk does not let readers wait, and Python runs one thread at a time.
        if self.storage.is_local:
            return list(map(function, values))
        with ThreadPoolExecutor(_NUM_READERS) as pool:
            return list(pool.map(function, values))

    def read_backwards(self, paths: Iterable[str]) -> Iterator[tuple[bytes, bool]]:
        """Yields parts of files from the last to the first, each from its end to its beginning.

        Args:
            paths: Paths in the storage, in the order of their content.

        Yields:
            A part, and whether its file begins with it. A file that cannot be read is noted in
            `damaged`.
        """
        for path in reversed(list(paths)):
            try:
                with self.storage.filesystem.open_input_file(f"{self.storage.root}/{path}") as file:
                    stop, size = file.size(), _FIRST_PART_BYTES
                    while True:
                        start = max(0, stop - size)
                        file.seek(start)
                        yield bytes(file.read(stop - start)), start == 0
                        if not start:
                            break
                        stop, size = start, min(_PART_GROWTH * size, _LARGEST_PART_BYTES)
            except FileNotFoundError:  # Removed since the listing, which is not damage.
                continue
            except OSError as error:
                self.damaged.append(f"{path}: {error.strerror or first_line(error)}")

    def _of(self, kind: Kind) -> dict[str, dict[str, pafs.FileInfo]]:
        if kind not in self._kinds:
            self._kinds[kind] = self._list(kind)
        return self._kinds[kind]

    def _list(self, kind: Kind) -> dict[str, dict[str, pafs.FileInfo]]:
        root = f"{self.storage.root}/{kind}"
        selector = pafs.FileSelector(root, allow_not_found=True, recursive=True)
        for attempt in range(_MAX_ATTEMPTS):
            try:
                infos = self.storage.filesystem.get_file_info(selector)
                break
            except FileNotFoundError:
                if attempt == _MAX_ATTEMPTS - 1:
                    raise
        found: dict[str, dict[str, pafs.FileInfo]] = {}
        for info in infos:
            name, _, path = info.path.removeprefix(root).lstrip("/").partition("/")
            # Asked once: the answer is converted each time.
            entry = info.type
            # An object store has no folders, so they may come up only as parts of paths.
            if entry == pafs.FileType.Directory:
                found.setdefault(name, {})
            elif path and entry == pafs.FileType.File:
                found.setdefault(name, {})[path] = info
        return found


def open_listing(uri: str) -> StoreListing:
    """Opens a storage to look at it.

    Args:
        uri: Folder or URI.

    Raises:
        UsageError: There is no storage there. A mistyped path must not look like an empty one.
    """
    storage = Storage(uri)
    if not storage.exists():
        raise UsageError(
            f"there is no storage at {storage.uri}",
            "Name the `storage` of your spec: --storage DIR or --storage s3://bucket/path. "
            "The first `raydc run` makes it.",
        )
    return StoreListing(storage)
