"""Files of a run, on a local path or any filesystem that pyarrow knows (`s3://`, `gs://`, `hdfs://`, ...).

A `Storage` is a folder. Writing a whole file is atomic: on a local filesystem by rename after fsync, on an
object store because an object appears when its upload is complete. Nothing else is assumed of the store,
which is why artefacts of several files end with a manifest (see `raydc.checkpoint.store`).
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from raydc.errors import UsageError

Content = bytes | memoryview


class Storage:
    """A folder on a pyarrow filesystem. Picklable: it is its URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or uri
        if "://" in uri:
            try:
                self.filesystem, self.root = pafs.FileSystem.from_uri(self.uri)
            except (ValueError, OSError) as error:
                raise UsageError(f"storage {uri!r} cannot be opened: {error}") from error
        else:
            self.uri = os.path.abspath(self.uri)
            self.filesystem, self.root = pafs.LocalFileSystem(), self.uri

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def __truediv__(self, name: str) -> Storage:
        # A URI may carry a query (`s3://bucket/p?endpoint_override=...`) which must stay at its end.
        base, mark, query = self.uri.partition("?")
        return Storage(f"{base}/{name}{mark}{query}")

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def local_path(self) -> Path:
        """The folder as a local path. Raises UsageError on a remote store."""
        if not self.is_local:
            raise UsageError(f"{self.uri} is not a local folder")
        return Path(self.root)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        return bool(self.filesystem.get_file_info(self._path(name)).type != pafs.FileType.NotFound)

    def names(self, name: str = "") -> list[str]:
        """Names in a folder, sorted; empty when there is no such folder."""
        selector = pafs.FileSelector(self._path(name), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def size(self, name: str) -> int:
        return int(self.filesystem.get_file_info(self._path(name)).size or 0)

    def read_bytes(self, name: str) -> bytes:
        """Raises FileNotFoundError or another OSError."""
        with self.filesystem.open_input_stream(self._path(name), compression=None) as stream:
            return bytes(stream.read())

    def read_json(self, name: str) -> Any:
        """Raises OSError, or ValueError where the file is not JSON."""
        return json.loads(self.read_bytes(name))

    def write_bytes(self, name: str, content: Content) -> None:
        """Writes a whole file, atomically and durably."""
        path = self._path(name)
        if not self.is_local:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(os.path.dirname(path))

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, canonical_json(value, indent=2) + b"\n")

    def create_bytes(self, name: str, content: bytes) -> bool:
        """Writes a file only if there is none; False when there was. Decides races on a local filesystem."""
        path = self._path(name)
        if not self.is_local:
            if self.exists(name):
                return False
            self.write_bytes(name, content)
            return True
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            Path(temporary).write_bytes(content)
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        return True

    def delete(self, name: str = "") -> None:
        """Removes a file or a folder; nothing happens where there is none."""
        path = self._path(name)
        kind = self.filesystem.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(path)
        elif kind != pafs.FileType.NotFound:
            self.filesystem.delete_file(path)

    def move(self, old: str, new: str) -> None:
        """Renames inside this folder. Atomic on a local filesystem only."""
        self.filesystem.move(self._path(old), self._path(new))
        if self.is_local:
            _sync_folder(os.path.dirname(self._path(new)))


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(value: Any, indent: int | None = None) -> bytes:
    """JSON with sorted keys; the same value is the same bytes. NaN is refused (ValueError)."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        value,
        sort_keys=True,
        indent=indent,
        separators=separators,
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def sha256(content: Content) -> str:
    return hashlib.sha256(content).hexdigest()
