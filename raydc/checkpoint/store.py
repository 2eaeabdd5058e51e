"""Artefacts of several files that exist only when all of them verify, and the checkpoints of a run.

The manifest (name, bytes and sha256 of each file) is written last. A folder without a manifest that verifies is
no artefact: the newest checkpoint that verifies wins, and a skipped one is named with its reason.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raydc.errors import CheckpointError
from raydc.storage import Content, Storage, sha256

MANIFEST = "MANIFEST.json"
Reached = Callable[[str], None]
_NAME = re.compile(r"^step_(\d{8,})$")


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
        entries[name] = {"bytes": len(files[name]), "sha256": hashes[name] if hashes else sha256(files[name])}
        reached(f"wrote {name}")
    folder.write_json(MANIFEST, {"meta": dict(meta), "files": entries})
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
        CheckpointError: There is no readable manifest.
    """
    try:
        manifest = folder.read_json(MANIFEST)
        meta, entries = dict(manifest["meta"]), dict(manifest["files"])
        for entry in entries.values():
            int(entry["bytes"]), str(entry["sha256"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.uri} has no {MANIFEST}: it was never completed") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder.uri}/{MANIFEST} cannot be read: {error}") from error
    return meta, entries


def _read_file(folder: Storage, name: str, entry: Mapping[str, Any]) -> bytes:
    where = f"{folder.uri}/{name}"
    try:
        content = folder.read_bytes(name)
    except FileNotFoundError as error:
        # Any other OSError may pass: it is no reason to call an artefact damaged.
        raise CheckpointError(f"{where} is missing: {error}") from error
    if len(content) != entry["bytes"]:
        raise CheckpointError(f"{where} is damaged: expected {entry['bytes']} bytes, found {len(content)}")
    found = sha256(content)
    if found != entry["sha256"]:
        raise CheckpointError(f"{where} is damaged: expected sha256 {entry['sha256'][:16]}, found {found[:16]}")
    return content


@dataclass(frozen=True)
class Found:
    """A checkpoint that verifies."""

    step: int
    meta: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that does not verify, and why."""

    step: int
    reason: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return name_of(self.step)


def name_of(step: int) -> str:
    """Folder name of a checkpoint: `step_00000500`."""
    return f"step_{step:08d}"


class CheckpointStore:
    """The checkpoints of a run, one folder each. One process writes, any process reads.

    Args:
        folder: `runs/<name>/checkpoints`.
        num_to_keep: Newest checkpoints that stay when another is written.
    """

    # Called at each phase of a write, by name: `copied`, `wrote FILE`, `moved`, `pruning`, `pruned`. What breaks a run
    # on purpose puts its own here.
    reached: Reached = staticmethod(nothing)

    def __init__(self, folder: Storage, num_to_keep: int) -> None:
        self.folder = folder
        self.num_to_keep = num_to_keep

    def write(
        self,
        step: int,
        files: Mapping[str, Content],
        meta: Mapping[str, Any],
        best_step: int | None = None,
        hashes: Mapping[str, str] | None = None,
    ) -> str:
        """Writes a checkpoint and removes those that are neither among the newest nor the best.

        Args:
            step: Steps done so far. A checkpoint of the same step that verifies stays as it is.
            files: Content by name.
            meta: JSON values that describe it.
            best_step: Step of the best checkpoint, which stays whatever its age.
            hashes: sha256 of each file, where it is known already.

        Returns:
            Its name.

        Raises:
            OSError: The store refuses. What was there before is still there.
        """
        name = name_of(step)
        if self.folder.exists(name) and self._keeps(step):
            return name
        meta = {**meta, "step": step}
        if self.folder.is_local:
            self._write_beside(name, files, meta, hashes)
        else:
            write_artefact(self.folder / name, files, meta, hashes, self.reached)
        self.reached("moved")
        self._prune(best_step)
        self.reached("pruned")
        return name

    def _keeps(self, step: int) -> bool:
        try:
            self.read(step)
        except CheckpointError:
            self.set_aside(step)
            return False
        return True

    def _write_beside(
        self, name: str, files: Mapping[str, Content], meta: Mapping[str, Any], hashes: Mapping[str, str] | None
    ) -> None:
        """Written beside its place and moved there whole: a kill leaves nothing that looks like a checkpoint."""
        draft = f"{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            write_artefact(self.folder / draft, files, meta, hashes, self.reached)
            self.folder.move(draft, name)
        except OSError:
            with contextlib.suppress(OSError):  # On a full disk its space is what the next one needs.
                self.folder.delete(draft)
            raise

    def _prune(self, best_step: int | None) -> None:
        steps = self.steps()
        kept = {*steps[-self.num_to_keep :], best_step}
        for step in steps:
            if step not in kept:
                self._remove(name_of(step))

    def _remove(self, name: str) -> None:
        if self.folder.is_local:  # A folder goes file by file: first it stops to look like a checkpoint.
            self.folder.move(name, f"{name}.pruned.tmp")
            name = f"{name}.pruned.tmp"
        else:
            self.folder.delete(f"{name}/{MANIFEST}")
        self.reached("pruning")
        self.folder.delete(name)

    def sweep_drafts(self) -> None:
        """Removes what a killed writer left. Only for the process that writes."""
        for name in self.folder.names():
            if name.endswith(".tmp"):
                self.folder.delete(name)

    def steps(self) -> list[int]:
        """Steps of all checkpoints that have a folder, ascending; whether they verify is another matter."""
        matches = (_NAME.match(name) for name in self.folder.names())
        return sorted(int(match[1]) for match in matches if match)

    def read(self, step: int) -> Found:
        """One checkpoint.

        Raises:
            CheckpointError: It is not there or does not verify.
        """
        meta, files = read_artefact(self.folder / name_of(step))
        if meta.get("step") != step:
            raise CheckpointError(f"{self.folder.uri}/{name_of(step)} is of step {meta.get('step')}")
        return Found(step, meta, files)

    def set_aside(self, step: int) -> None:
        """Takes a checkpoint that does not verify out of the row, so that it does not count among the newest."""
        name = name_of(step)
        if self.folder.is_local:
            self.folder.delete(f"{name}.damaged")
            self.folder.move(name, f"{name}.damaged")
        else:
            self.folder.delete(name)

    def newest(self) -> tuple[Found | None, list[Skipped]]:
        """The newest checkpoint that verifies, and the newer ones that do not."""
        skipped: list[Skipped] = []
        for candidate in self._newest_first():
            if isinstance(candidate, Found):
                return candidate, skipped
            skipped.append(candidate)
        return None, skipped

    def _newest_first(self) -> Iterator[Found | Skipped]:
        for step in reversed(self.steps()):
            try:
                yield self.read(step)
            except CheckpointError as error:
                yield Skipped(step, error.message)
