"""Folders of several files that count only if every file verifies.

The manifest (name, bytes and sha256 of each file, and its own sha256) is written last: a folder
without a manifest that verifies was never completed. Used for checkpoints and bundles in workers,
the driver and replicas.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping
from typing import Any

from raydc.errors import CheckpointError, FormatError
from raydc.storage import Content, Storage, broken_seal, seal, sha256

MANIFEST = "MANIFEST.json"
# Increased when a reader of the previous format would misread the files or the manifest. A manifest
# without `format` has format 1.
FORMAT_VERSION = 1

# A file that stands where a folder belongs, or the reverse. Such a store answers, and no wait
# helps; any other OSError may be temporary, so it is no sign of damage.
_DAMAGE_ERRNOS = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}

# Called with each phase of a write as it is reached; tests and chaos runs break a write there.
OnPhase = Callable[[str], None]


def ignore_phase(phase: str) -> None:
    """An `OnPhase` that does nothing."""


def write_checksummed(
    folder: Storage,
    files: Mapping[str, Content],
    meta: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
    on_phase: OnPhase = ignore_phase,
) -> None:
    """Writes files, then the manifest that completes the folder.

    Args:
        folder: Where the files are written; others that it already holds stay.
        files: Content of every file but the manifest, by file name.
        meta: JSON values that the manifest stores besides names and hashes of the files.
        hashes: sha256 of every file, in hexadecimal; None computes them.
        on_phase: Called with `wrote NAME` after each file.

    Raises:
        OSError: The store cannot be written.
    """
    # An old manifest goes first, so that a rewrite that stops half-way leaves no complete folder.
    folder.delete(MANIFEST)
    entries = {}
    for name in sorted(files):
        folder.write_bytes(name, files[name])
        entries[name] = {
            "bytes": len(files[name]),
            "sha256": hashes[name] if hashes else sha256(files[name]),
        }
        on_phase(f"wrote {name}")
    manifest = {"format": FORMAT_VERSION, "meta": dict(meta), "files": entries}
    folder.write_json(MANIFEST, seal(manifest))
    on_phase(f"wrote {MANIFEST}")


def read_checksummed(
    folder: Storage, without: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads a folder and verifies every byte of it.

    Args:
        folder: The folder.
        without: Names of files that are not needed and not read.

    Returns:
        The metadata, and the content of each file by name.

    Raises:
        CheckpointError: There is no readable manifest, or a file differs from it; the message says
            what was expected and what was found.
    """
    meta, entries = read_manifest(folder)
    read = {name: entry for name, entry in entries.items() if name not in without}
    return meta, {name: _read_file(folder, name, entry) for name, entry in read.items()}


def read_one(folder: Storage, name: str) -> tuple[dict[str, Any], bytes]:
    """Reads and verifies one file of a folder, where `read_checksummed` reads them all.

    Returns:
        The metadata, and the content of the file.
    """
    meta, entries = read_manifest(folder)
    if name not in entries:
        raise CheckpointError(f"{folder.uri}/{MANIFEST} names no file {name}")
    return meta, _read_file(folder, name, entries[name])


def copy_checksummed(source: Storage, target: Storage, manifest: Content) -> None:
    """Copies a folder and verifies the copy; a copy that fails is removed.

    Args:
        source: Folder with the files of `manifest`.
        target: Folder that gets the files, the manifest last: without it the copy does not exist.
        manifest: The manifest of the source, which may be replaced while it is copied.

    Raises:
        CheckpointError: The copy does not verify.
    """
    try:
        for name in source.names():
            if name != MANIFEST:
                target.write_bytes(name, source.read_bytes(name))
        target.write_bytes(MANIFEST, manifest)
        read_checksummed(target)
    except (OSError, CheckpointError):
        target.delete()
        raise


def complete_copy(source: Storage, target: Storage, manifest: Content) -> None:
    """Makes a folder a copy of another; a copy that verifies is left as it is.

    Args:
        source: Folder with the files of `manifest`.
        target: Folder that may be empty, half a copy, or a damaged one.
        manifest: Bytes of the manifest, as they were read from the source.

    Raises:
        CheckpointError: The copy does not verify.
    """
    try:
        if target.read_bytes(MANIFEST) == manifest:
            read_checksummed(target)
            return
    except (FileNotFoundError, CheckpointError):
        pass
    copy_checksummed(source, target, manifest)


def read_manifest(folder: Storage) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the manifest of a folder, without its files.

    Returns:
        The metadata, and `{name: {"bytes", "sha256"}}`.

    Raises:
        FormatError: A newer version of raydc wrote it.
        CheckpointError: There is no readable manifest.
    """
    try:
        manifest = folder.read_json(MANIFEST)
        # First of all: a changed character may look like another format.
        if (wrong := broken_seal(manifest)) is not None:
            raise CheckpointError(f"{folder.uri}/{MANIFEST} is damaged: {wrong}")
        # Before the rest: a newer format may have neither `meta` nor `files`.
        found = int(manifest.get("format", FORMAT_VERSION))
        if found > FORMAT_VERSION:
            raise FormatError(
                f"{folder.uri}/{MANIFEST} has format {found}, but this raydc reads up to "
                f"{FORMAT_VERSION}",
                "A newer raydc wrote it: upgrade this one (pip install --upgrade raydc) and type "
                "the command again.",
            )
        meta, entries = dict(manifest["meta"]), dict(manifest["files"])
        # Wrong types are found here, not later when an entry is compared.
        for entry in entries.values():
            int(entry["bytes"]), str(entry["sha256"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.uri} has no {MANIFEST}: it was never completed") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.uri}/{MANIFEST} cannot be read: {error}") from error
    except OSError as error:
        if not is_damage(error):
            raise
        raise CheckpointError(f"{folder.uri} is not a folder of files: {error}") from error
    return meta, entries


def is_damage(error: OSError) -> bool:
    """Whether a store that answers holds something other than a file where a file belongs."""
    # pyarrow gives no number for a folder that is read as a file.
    return error.errno in _DAMAGE_ERRNOS or str(error).endswith("is a directory")


def mismatch(num_bytes: int, digest: str, entry: Mapping[str, Any]) -> str | None:
    """Compares a file with its entry in a manifest.

    Args:
        num_bytes: Size of the file found.
        digest: sha256 of the content found, in hexadecimal.
        entry: `bytes` and `sha256` that the manifest states for the file.

    Returns:
        What was expected and what was found; None if they agree.
    """
    if num_bytes != entry["bytes"]:
        return f"expected {entry['bytes']} bytes, found {num_bytes} bytes"
    if digest != entry["sha256"]:
        return f"expected sha256 {entry['sha256'][:16]}, found {digest[:16]}"
    return None


def _read_file(folder: Storage, name: str, entry: Mapping[str, Any]) -> bytes:
    where = f"{folder.uri}/{name}"
    try:
        content = folder.read_bytes(name)
    except FileNotFoundError as error:
        raise CheckpointError(f"{where} is missing: {error}") from error
    except OSError as error:
        if not is_damage(error):
            raise
        raise CheckpointError(f"{where} is not a file: {error}") from error
    # The size is compared first, because hashing a truncated file of gigabytes takes seconds and
    # adds nothing to the message.
    digest = sha256(content) if len(content) == entry["bytes"] else ""
    wrong = mismatch(len(content), digest, entry)
    if wrong is not None:
        raise CheckpointError(f"{where} is damaged: {wrong}")
    return content
