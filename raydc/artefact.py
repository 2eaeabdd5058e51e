"""Artefacts of several files that exist only when all of them verify.

The manifest (name, bytes and sha256 of each file) is written last. A folder without a manifest that verifies is
no artefact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from raydc.errors import CheckpointError, FormatError
from raydc.storage import Content, Storage, sha256

MANIFEST = "MANIFEST.json"
# Raised when a reader of the format before would misread files or manifest. A manifest without a
# format is of the first, which had no number yet.
FORMAT_VERSION = 1


Reached = Callable[[str], None]


def nothing(phase: str) -> None:
    """Where nobody wants to know which phase of a write is reached."""


def write_artefact(
    folder: Storage,
    files: Mapping[str, Content],
    meta: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
    reached: Reached = nothing,
) -> None:
    """Writes files, then the manifest that makes them an artefact.

    Args:
        folder: Where to. A manifest that is there goes first, so that a torn rewrite is no artefact.
        files: Content by name.
        meta: JSON values that describe it.
        hashes: sha256 of each file, where it is known already.
        reached: Called with `wrote NAME` after each file.

    Raises:
        OSError: The store refuses.
    """
    folder.delete(MANIFEST)
    entries = {}
    for name in sorted(files):
        folder.write_bytes(name, files[name])
        entries[name] = {
            "bytes": len(files[name]),
            "sha256": hashes[name] if hashes else sha256(files[name]),
        }
        reached(f"wrote {name}")
    manifest = {"format": FORMAT_VERSION, "meta": dict(meta), "files": entries}
    folder.write_json(MANIFEST, manifest)
    reached(f"wrote {MANIFEST}")


def read_artefact(folder: Storage) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads an artefact and verifies every byte of it.

    Returns:
        The meta data, and the content of each file by name.

    Raises:
        CheckpointError: No readable manifest, or a file that differs from it, with what was expected and found.
    """
    meta, entries = read_manifest(folder)
    return meta, {name: _read_file(folder, name, entry) for name, entry in entries.items()}


def read_manifest(folder: Storage) -> tuple[dict[str, Any], dict[str, Any]]:
    """The meta data and `{name: {"bytes", "sha256"}}` of an artefact, without looking at its files.

    Raises:
        FormatError: A newer version of raydc wrote it.
        CheckpointError: There is no readable manifest.
    """
    try:
        manifest = folder.read_json(MANIFEST)
        # Before all else: a newer format may have neither `meta` nor `files`.
        found = int(manifest.get("format", FORMAT_VERSION))
        if found > FORMAT_VERSION:
            raise FormatError(
                f"{folder.uri}/{MANIFEST} has format {found}, but this raydc reads up to "
                f"{FORMAT_VERSION}",
                "A newer raydc wrote it: upgrade this one (pip install --upgrade raydc) and type "
                "the command again.",
            )
        meta, entries = dict(manifest["meta"]), dict(manifest["files"])
        for entry in entries.values():
            int(entry["bytes"]), str(entry["sha256"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.uri} has no {MANIFEST}: it was never completed") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.uri}/{MANIFEST} cannot be read: {error}") from error
    return meta, entries


def mismatch(num_bytes: int, digest: str, entry: Mapping[str, Any]) -> str | None:
    """Compares a file with its entry in a manifest.

    Args:
        num_bytes: Size of the file found.
        digest: Its sha256, in hexadecimal.
        entry: What the manifest says: `bytes` and `sha256`.

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
        # Any other OSError may pass: it is no reason to call an artefact damaged.
        raise CheckpointError(f"{where} is missing: {error}") from error
    # The size is compared first: hashing a truncated file of gigabytes tells nothing more.
    digest = sha256(content) if len(content) == entry["bytes"] else ""
    wrong = mismatch(len(content), digest, entry)
    if wrong is not None:
        raise CheckpointError(f"{where} is damaged: {wrong}")
    return content
