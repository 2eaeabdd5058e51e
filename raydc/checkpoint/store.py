"""Artefacts of several files that exist only when all of them verify, and the checkpoints of a run.

The manifest (name, bytes and sha256 of each file) is written last. A folder without a manifest that verifies is
no artefact: the newest checkpoint that verifies wins, and a skipped one is named with its reason.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raydc.artefact import MANIFEST, Reached, nothing, read_artefact, write_artefact
from raydc.errors import CheckpointError
from raydc.storage import Content, Storage

_NAME = re.compile(r"^step_(\d{8,})$")


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
        self,
        name: str,
        files: Mapping[str, Content],
        meta: Mapping[str, Any],
        hashes: Mapping[str, str] | None,
    ) -> None:
        """Written beside its place and moved there whole: a kill leaves nothing that looks like a checkpoint."""
        draft = f"{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            write_artefact(self.folder / draft, files, meta, hashes, self.reached)
            self.folder.move(draft, name)
        except OSError:
            with contextlib.suppress(
                OSError
            ):  # On a full disk its space is what the next one needs.
                self.folder.delete(draft)
            raise

    def _prune(self, best_step: int | None) -> None:
        steps = self.steps()
        kept = {*steps[-self.num_to_keep :], best_step}
        for step in steps:
            if step not in kept:
                self._remove(name_of(step))

    def _remove(self, name: str) -> None:
        if (
            self.folder.is_local
        ):  # A folder goes file by file: first it stops to look like a checkpoint.
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
            raise CheckpointError(
                f"{self.folder.uri}/{name_of(step)} is of step {meta.get('step')}"
            )
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
