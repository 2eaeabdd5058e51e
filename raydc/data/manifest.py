"""The manifest of a prepared data set: written last, compared with the files before their use.

Does not import Ray; used in the driver, in tasks of Ray Data and in workers.

MANIFEST.json      inputs of the set, rows of each split, bytes and sha256 of every file
features.json      the fitted features
golden_rows.json   a few held-out rows as JSON, by which a replica checks itself
*.arrow            the shards, see `raydc.data.shards`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydc.artefact import MANIFEST, broken_seal, mismatch, seal
from raydc.errors import DataError
from raydc.features import Features
from raydc.storage import Storage, sha256

FORMAT_VERSION = 1
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
    if found != FORMAT_VERSION:
        raise DataError(
            f"{folder.uri}/{MANIFEST}: format {found!r}, but this raydc reads {FORMAT_VERSION}",
            _remedy(folder),
        )
    lacking = [name for name in _REQUIRED if name not in manifest]
    if lacking:
        raise DataError(f"{folder.uri}/{MANIFEST} has no {', '.join(lacking)}", _remedy(folder))
    return dict(manifest)


def verify(folder: Storage, manifest: Mapping[str, Any], contents: bool = False) -> None:
    """Compares a folder with its manifest.

    Args:
        folder: Folder that must hold all files of the manifest.
        manifest: Manifest of this folder, as `read` returns it.
        contents: Whether to compare the sha256 of each file, and not only its name and size.

    Raises:
        DataError: The first file that differs, with what was expected and what was found.
    """
    for name, entry in manifest["files"].items():
        if not folder.exists(name):
            raise DataError(f"{folder.uri}/{name} is missing", _remedy(folder))
        # Without `contents` the digest is taken as right, so that only the size is compared.
        digest = sha256(folder.read_bytes(name)) if contents else entry["sha256"]
        check_entry(folder, name, folder.size(name), digest, entry)


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
    manifest = seal({"format": FORMAT_VERSION, "data_hash": data_hash, **facts, "files": files})
    folder.write_json(MANIFEST, manifest)
    return manifest


def _remedy(folder: Storage) -> str:
    """Hint of an error: how to remove the data set and prepare it again."""
    name = folder.uri.partition("?")[0].rsplit("/", 1)[-1]
    return f"Remove it (raydc rm data {name} --yes), then prepare it again: raydc prepare SPEC"
