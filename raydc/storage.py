"""Folders on a local path or on any filesystem of pyarrow (`s3://`, `gs://`, `hdfs://` and so on).

Used in every process. Writing a whole file is atomic: on a local filesystem by a rename after
fsync, on an object store because an object appears when its upload is complete. Nothing else is
assumed of the store, which is why folders of several files end with a manifest (see
`raydc.checksummed_folder`).
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from raydc.errors import UsageError

Content = bytes | memoryview
# Where the JSON objects of a store keep the hash of all their other values.
OWN_HASH = "sha256"


class Storage:
    """A folder on a pyarrow filesystem. It is pickled as its URI.

    Args:
        uri: Local path, or a URI of a filesystem that pyarrow supports.

    Raises:
        UsageError: The URI cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or uri
        if "://" in uri:
            try:
                self.filesystem, self.root = pafs.FileSystem.from_uri(self.uri)
            except (ValueError, OSError) as error:
                raise UsageError(f"storage {uri!r} cannot be opened: {error}") from error
        else:
            # Other processes have other current directories.
            self.uri = os.path.abspath(self.uri)
            self.filesystem, self.root = pafs.LocalFileSystem(), self.uri

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def __truediv__(self, name: str) -> Storage:
        base, query = split_query(self.uri)
        return Storage(f"{base}/{name}{query}")

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local filesystem, also when given as `file://`."""
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
        """Whether a file or folder of this name exists; without a name, the folder itself."""
        return bool(self.filesystem.get_file_info(self._path(name)).type != pafs.FileType.NotFound)

    def names(self, name: str = "") -> list[str]:
        """Names in a folder, sorted; empty if there is no such folder, or a file in its place."""
        selector = pafs.FileSelector(self._path(name), allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except (FileNotFoundError, NotADirectoryError):
            # Arrow raises FileNotFoundError in spite of `allow_not_found` if somebody makes the
            # folder meanwhile.
            return []
        return sorted(info.base_name for info in found)

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if there is no such file."""
        return int(self.filesystem.get_file_info(self._path(name)).size or 0)

    def read_bytes(self, name: str) -> bytes:
        """Reads a whole file. Raises FileNotFoundError or another OSError."""
        # Without compression=None pyarrow unpacks a file whose name ends in `.gz`.
        with self.filesystem.open_input_stream(self._path(name), compression=None) as stream:
            return bytes(stream.read())

    def read_json(self, name: str) -> Any:
        """Reads a file of JSON. Raises OSError, or ValueError if it is not JSON."""
        try:
            return json.loads(self.read_bytes(name))
        except RecursionError as error:
            raise ValueError(f"{name} is nested too deeply") from error

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
            _write_through(temporary, content)
            # After the fsync: a rename may reach the disk before the content does.
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        # The folder holds the name of the file, so the folder must be synced as well.
        _sync_folder(os.path.dirname(path))

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as JSON with sorted keys, atomically and durably."""
        self.write_bytes(name, canonical_json(value, indent=2) + b"\n")

    def create_bytes(self, name: str, content: bytes) -> bool:
        """Writes a file, atomically and durably, only if there is none of that name.

        On a local filesystem exactly one of several processes wins; on an object store, where
        pyarrow has no such operation, two that start together may both win.

        Args:
            name: Name of the file in this folder.
            content: Bytes of the whole file.

        Returns:
            Whether this call wrote it.
        """
        path = self._path(name)
        if not self.is_local:
            if self.exists(name):
                return False
            self.write_bytes(name, content)
            return True
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            _write_through(temporary, content)
            # A link fails if the name exists, and it appears with all of its content.
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        _sync_folder(os.path.dirname(path))
        return True

    def delete(self, name: str = "") -> None:
        """Removes a file or a folder, if it exists."""
        path = self._path(name)
        kind = self.filesystem.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(path)
        elif kind != pafs.FileType.NotFound:
            self.filesystem.delete_file(path)

    def move(self, old: str, new: str) -> None:
        """Renames a file or folder inside this folder; atomic on a local filesystem only."""
        self.filesystem.move(self._path(old), self._path(new))
        if self.is_local:
            _sync_folder(os.path.dirname(self._path(new)))


def _write_through(path: str, content: Content) -> None:
    """Writes a file that is whole after a power loss."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def split_query(uri: str) -> tuple[str, str]:
    """Splits the query off a URI, which must stay at its end (`s3://bucket/p?region=...`).

    Args:
        uri: A URI, or a local path, in which a question mark is a character like others.

    Returns:
        What names the place, and the query with its question mark or "".
    """
    base, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return base, mark + query


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(value: Any, indent: int | None = None) -> bytes:
    """Serialises a value as JSON with sorted keys, so that equal values give equal bytes.

    Args:
        value: Dicts, lists, strings, numbers, booleans and None, nested.
        indent: Spaces per level; None writes one line without spaces.

    Raises:
        ValueError: A number is NaN or infinite, for which JSON has no form.
    """
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
    """sha256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the hash of a JSON object to it, by which a reader finds a changed character."""
    return {**record, OWN_HASH: _own_hash(record)}


def broken_seal(record: Mapping[str, Any]) -> str | None:
    """Compares a JSON object with the hash that `seal` added.

    Returns:
        What was expected and what was found; None if they agree, or if it has no hash because an
        older raydc wrote it.
    """
    expected = record.get(OWN_HASH)
    if expected is None or expected == (found := _own_hash(record)):
        return None
    return f"expected sha256 {str(expected)[:16]}, found {found[:16]}"


def _own_hash(record: Mapping[str, Any]) -> str:
    return sha256(canonical_json({name: record[name] for name in record if name != OWN_HASH}))
