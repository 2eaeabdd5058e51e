"""The manifest of a prepared data set: written last, compared with the files before their use.

Does not import Ray; used in the driver, in tasks of Ray Data and in workers.

MANIFEST.json      inputs of the set, rows of each split, bytes and sha256 of every file
features.json      the fitted features
golden_rows.json   a few held-out rows as JSON, by which a replica checks itself
*.arrow            the shards, see `raydc.data.shards`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydc.checksummed_folder import MANIFEST, is_damage, mismatch
from raydc.data import content_check
from raydc.errors import DataError
from raydc.features import Features
from raydc.storage import Storage, broken_seal, seal, sha256

# Rows that are one array, and rows of named fields, which an older raydc cannot read.
FORMAT_VERSION = 1
RECORD_FORMAT_VERSION = 2
SHARD_SUFFIX = ".arrow"
_REQUIRED = ("data_hash", "rows", "files")


def read(folder: Storage) -> dict[str, Any]:
    """Reads the manifest of a prepared data set.

    Raises:
        DataError: The folder has no manifest, or one of another version.
    """
    try:
        manifest = folder.read_json(MANIFEST)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder.uri} is not a prepared data set: {MANIFEST}: {error}", _remedy(folder)
        ) from error
    if isinstance(manifest, dict) and (wrong := broken_seal(manifest)) is not None:
        raise DataError(f"{folder.uri}/{MANIFEST} is damaged: {wrong}", _remedy(folder))
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found not in (FORMAT_VERSION, RECORD_FORMAT_VERSION):
        raise DataError(
            f"{folder.uri}/{MANIFEST}: format {found!r}, but this raydc reads {FORMAT_VERSION} "
            f"and {RECORD_FORMAT_VERSION}",
            _remedy(folder),
        )
    lacking = [name for name in _REQUIRED if name not in manifest]
    if lacking:
        raise DataError(f"{folder.uri}/{MANIFEST} has no {', '.join(lacking)}", _remedy(folder))
    return dict(manifest)


def verify(folder: Storage, manifest: Mapping[str, Any]) -> None:
    """Compares a folder with its manifest: small files by content, shards by name and size.

    Shards are compared by content when they are opened, see `raydc.data.shards`.

    Args:
        folder: Folder that must hold all files of the manifest.
        manifest: Manifest of this folder, as `read` returns it.

    Raises:
        DataError: The first file that differs, with what was expected and what was found.
    """
    for name, entry in manifest["files"].items():
        if name.endswith(SHARD_SUFFIX):
            if not folder.exists(name):
                raise DataError(f"{folder.uri}/{name} is missing", _remedy(folder))
            check_entry(folder, name, folder.size(name), entry["sha256"], entry)
        else:
            _read_verified(folder, name, entry)


def read_json(folder: Storage, manifest: Mapping[str, Any], name: str) -> Any:
    """Reads a JSON file of a data set, after its content was compared with the manifest.

    Args:
        folder: Folder of the data set.
        manifest: Manifest of this folder, as `read` returns it.
        name: `features.json` or `golden_rows.json`.

    Raises:
        DataError: The file is missing or damaged.
    """
    if name not in manifest["files"]:
        raise DataError(f"{folder.uri}/{MANIFEST} names no file {name}", _remedy(folder))
    return json.loads(_read_verified(folder, name, manifest["files"][name]))


def _read_verified(folder: Storage, name: str, entry: Mapping[str, Any]) -> bytes:
    try:
        content = folder.read_bytes(name)
    except FileNotFoundError as error:
        raise DataError(f"{folder.uri}/{name} is missing", _remedy(folder)) from error
    except OSError as error:
        if not is_damage(error):
            raise
        raise DataError(f"{folder.uri}/{name} is not a file: {error}", _remedy(folder)) from error
    check_entry(folder, name, len(content), sha256(content), entry)
    return content


def check_local(folder: Storage, name: str, path: Path, entry: Mapping[str, Any]) -> None:
    """Compares the content of a file on this machine with its entry, see `content_check`.

    Args:
        folder: Folder of the data set, for messages.
        name: Name of the file in this folder.
        path: Path of the file on this machine, where it may be a copy.
        entry: `bytes` and `sha256` that the manifest states for the file.

    Raises:
        DataError: The file differs, or cannot be read.
    """
    try:
        wrong = content_check.compare(path, entry)
    except OSError as error:
        raise DataError(f"{folder.uri}/{name} cannot be read: {error}", _remedy(folder)) from error
    if wrong is not None:
        raise DataError(f"{folder.uri}/{name} is damaged: {wrong}", _remedy(folder))


def check_entry(
    folder: Storage, name: str, num_bytes: int, digest: str, entry: Mapping[str, Any]
) -> None:
    """Compares one file with its entry.

    Args:
        folder: Folder of the file, for messages.
        name: Name of the file, for messages.
        num_bytes: Size of the file found, in bytes.
        digest: sha256 of the content found, in hexadecimal.
        entry: `bytes` and `sha256` that the manifest states for the file.

    Raises:
        DataError: The file differs.
    """
    wrong = mismatch(num_bytes, digest, entry)
    if wrong is not None:
        raise DataError(f"{folder.uri}/{name} is damaged: {wrong}", _remedy(folder))


def write_file(folder: Storage, name: str, content: bytes) -> dict[str, Any]:
    """Writes a file of a data set.

    Args:
        folder: Folder of the new data set.
        name: Name of the file in this folder.
        content: Bytes of the whole file.

    Returns:
        Its entry in the manifest: `bytes` and `sha256`.
    """
    folder.write_bytes(name, content)
    return {"bytes": len(content), "sha256": sha256(content)}


def write(
    folder: Storage,
    features: Features,
    golden_rows: Sequence[Mapping[str, Any]],
    files: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Completes a data set whose shards are written: features, golden rows, then the manifest.

    Args:
        folder: Folder that holds the shards and gets the manifest.
        features: Fitted features, which are written next to the shards.
        golden_rows: Held-out rows as JSON values, with which a served model is checked.
        files: `{name: {"bytes", "sha256"}}` of the shards.
        facts: `rows`, `shards` (names by split), `rows_per_shard`, and what the set was made from.
            Without a `data_hash`, the hash of all files stands in for it.

    Returns:
        The manifest.
    """
    files = dict(files)
    for name, value in (
        ("features.json", features.to_dict()),
        ("golden_rows.json", list(golden_rows)),
    ):
        folder.write_json(name, value)
        files[name] = {"bytes": folder.size(name), "sha256": sha256(folder.read_bytes(name))}
    data_hash = sha256(
        "".join(f"{name} {files[name]['sha256']}\n" for name in sorted(files)).encode()
    )
    is_record = features.is_stored_as_record or "images" in facts
    version = RECORD_FORMAT_VERSION if is_record else FORMAT_VERSION
    manifest = seal({"data_hash": data_hash, **facts, "format": version, "files": files})
    folder.write_json(MANIFEST, manifest)
    return manifest


def _remedy(folder: Storage) -> str:
    """Hint of an error: how to prepare the data set again, also for a run that goes on with it."""
    return (
        f"Delete the folder {folder.uri}, then prepare it again: raydc prepare SPEC. Equal sources "
        "give equal rows."
    )
