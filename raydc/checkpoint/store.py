"""The checkpoints of a run in storage. Rank 0 writes them; drivers, workers and commands read them.

A checkpoint is a folder of files with checksums (`raydc.checksummed_folder`): one whose manifest
does not verify is not a checkpoint. The newest checkpoint that verifies wins, and one that is
skipped is named with the reason.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raydc.checksummed_folder import (
    MANIFEST,
    OnPhase,
    ignore_phase,
    read_checksummed,
    read_manifest,
    write_checksummed,
)
from raydc.errors import CheckpointError, FormatError
from raydc.storage import Content, Storage

# Zero-padded, so that names sort like steps; more digits than eight still match.
_NAME = re.compile(r"^step_(\d{8,})$")


@dataclass(frozen=True)
class Found:
    """A checkpoint that verifies.

    Attributes:
        step: Number of completed steps.
        meta: JSON values from the manifest.
        files: Content of each file, by its name.
    """

    step: int
    meta: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that does not verify.

    Attributes:
        step: Completed steps, from its name.
        reason: What is wrong with it.
    """

    step: int
    reason: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return name_of(self.step)


def name_of(step: int) -> str:
    """Folder name of a checkpoint: `step_00000500`."""
    return f"step_{step:08d}"


class CheckpointStore:
    """The checkpoints of a run, one folder each. One process writes, any process reads.

    Args:
        folder: Folder of the checkpoints, `runs/<name>/checkpoints`.
        num_to_keep: Number of newest checkpoints that remain when another one is written.
    """

    # Called at each phase of a write: `copied`, `wrote FILE`, `moved`, `pruning`, `pruned`.
    # Fault injection sets its own function here.
    reached: OnPhase = staticmethod(ignore_phase)

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
            step: Completed steps. An intact checkpoint of the same step is left as it is.
            files: Content of each file of the checkpoint, by file name.
            meta: JSON values for the manifest of the checkpoint.
            best_step: Step of the best checkpoint, which is never removed; None if none is known.
            hashes: sha256 of each file, in hexadecimal; None computes them.

        Returns:
            The name of the checkpoint.

        Raises:
            OSError: The store refuses. What was there before is still there.
        """
        name = name_of(step)
        # A resumed run comes to the same step again; its bits are the same, so the old one is kept.
        if self.folder.exists(name) and self._verifies(step):
            return name
        # The step is part of what is verified, see `read`.
        meta = {**meta, "step": step}
        if self.folder.is_local:
            self._write_draft(name, files, meta, hashes)
        else:
            write_checksummed(self.folder / name, files, meta, hashes, self.reached)
        self.reached("moved")
        self._prune(best_step)
        self.reached("pruned")
        return name

    def _verifies(self, step: int) -> bool:
        """Whether a checkpoint verifies; one that does not is set aside."""
        try:
            self.read(step)
        except FormatError:
            raise  # Not damaged: a newer raydc can read it.
        except CheckpointError:
            self.set_aside(step)
            return False
        return True

    def _write_draft(
        self,
        name: str,
        files: Mapping[str, Content],
        meta: Mapping[str, Any],
        hashes: Mapping[str, str] | None,
    ) -> None:
        """Writes under another name and moves the whole folder to its place.

        So a kill leaves nothing that looks like a checkpoint.
        """
        draft = f"{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            write_checksummed(self.folder / draft, files, meta, hashes, self.reached)
            self.folder.move(draft, name)
        except OSError:
            # On a full disk the next attempt needs the space of the draft.
            with contextlib.suppress(OSError):
                self.folder.delete(draft)
            raise

    def _prune(self, best_step: int | None) -> None:
        self.keep_only({*self.steps()[-self.num_to_keep :], best_step})

    def keep_only(self, kept: Collection[int | None]) -> None:
        """Removes the checkpoints of all other steps.

        Only the process that writes may call it, or the driver after its end.
        """
        for step in self.steps():
            if step not in kept:
                self._remove(name_of(step))

    def _remove(self, name: str) -> None:
        # A folder is deleted file by file. Before that it must stop looking like a checkpoint.
        if self.folder.is_local:
            self.folder.move(name, f"{name}.pruned.tmp")
            name = f"{name}.pruned.tmp"
        else:
            self.folder.delete(f"{name}/{MANIFEST}")
        self.reached("pruning")
        self.folder.delete(name)

    def sweep_drafts(self) -> None:
        """Removes what a killed writer has left. Only the process that writes may call it."""
        # Drafts and half-removed checkpoints both end with `.tmp`.
        for name in self.folder.names():
            if name.endswith(".tmp"):
                self.folder.delete(name)

    def steps(self) -> list[int]:
        """Steps of all checkpoints that have a folder, ascending, whether or not they verify."""
        matches = (_NAME.match(name) for name in self.folder.names())
        return sorted(int(match[1]) for match in matches if match)

    def read(self, step: int) -> Found:
        """Reads the checkpoint of a step.

        Raises:
            CheckpointError: It does not exist or does not verify.
        """
        meta, files = read_checksummed(self.folder / name_of(step))
        # A folder that was renamed verifies, but holds another step than its name says.
        if meta.get("step") != step:
            raise CheckpointError(
                f"{self.folder.uri}/{name_of(step)} is of step {meta.get('step')}"
            )
        return Found(step, meta, files)

    def why_incomplete(self, step: int) -> str | None:
        """Why a checkpoint is not whole, by the sizes of its files; None if it seems whole."""
        folder = self.folder / name_of(step)
        try:
            _, entries = read_manifest(folder)
        except FormatError:
            return None  # Not damaged: a newer raydc can read it.
        except CheckpointError as error:
            return error.message
        for name, entry in entries.items():
            if (size := folder.size(name)) != entry["bytes"]:
                return f"{folder.uri}/{name} has {size} bytes instead of {entry['bytes']}"
        return None

    def set_aside(self, step: int) -> None:
        """Renames a checkpoint that does not verify; on an object store, deletes it."""
        name = name_of(step)
        # An object store cannot rename; copying gigabytes that do not verify is not worth it.
        if self.folder.is_local:
            self.folder.delete(f"{name}.damaged")
            self.folder.move(name, f"{name}.damaged")
        else:
            self.folder.delete(name)

    def newest(self) -> tuple[Found | None, list[Skipped]]:
        """Returns the newest checkpoint that verifies, and the newer ones that do not."""
        skipped: list[Skipped] = []
        for candidate in self._newest_first():
            if isinstance(candidate, Found):
                return candidate, skipped
            skipped.append(candidate)
        return None, skipped

    def require_newest(self, hint: str | None = None) -> Found:
        """Returns the newest checkpoint that verifies.

        Args:
            hint: Advice to add to the error; None adds none.

        Raises:
            CheckpointError: None verifies; the message has the reason of the newest one.
        """
        found, skipped = self.newest()
        if found is None:
            reason = f": {skipped[0].reason}" if skipped else ""
            raise CheckpointError(
                f"{self.folder.uri} holds no checkpoint that verifies{reason}", hint
            )
        return found

    def _newest_first(self) -> Iterator[Found | Skipped]:
        for step in reversed(self.steps()):
            try:
                yield self.read(step)
            except FormatError:
                raise  # An older one must not win over it.
            except CheckpointError as error:
                yield Skipped(step, error.message)
