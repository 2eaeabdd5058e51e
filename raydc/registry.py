"""Names for models: numbered versions that never change, aliases that move, and who moved them.

Runs in any process that reaches the storage: driver, command line, replica.

    models/<name>/versions/<n>/         a bundle, copied and verified
    models/<name>/versions/<n>.json     its origin; creating this file reserves the number
    models/<name>/history/<k>.json      the k-th change of an alias, and all aliases after it

The newest entry of the history is the state, so one file created exclusively is the whole
transaction: of two people who move an alias at once, each gets an entry, and no change is lost.
(An object store without exclusive creation cannot decide that race.)
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterable
from typing import Any

from raydc import checksummed_folder
from raydc.errors import RegistryError, UsageError, did_you_mean
from raydc.storage import Storage, sha256
from raydc.tracking import version_records
from raydc.tracking.alias_history import AliasHistory, Move, Stacks, make_move, read_record

_MODEL_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*$")
_ALIAS_NAME = re.compile(r"^[A-Za-z][\w.-]*$")
# Depth of `rollback`. Each entry holds all of it, so an unlimited one would grow with every move.
_MAX_KEPT_MOVES = 100


class Registry:
    """The models of one storage.

    Args:
        storage: Its folder `models` holds all of the registry; no process keeps any of it.
        after: A `history_number`. Changes of aliases must come right after it, otherwise they
            raise OvertakenError; None takes any.
    """

    def __init__(self, storage: Storage, after: int | None = None) -> None:
        self.storage = storage
        self._after = after

    def models(self) -> list[str]:
        """Names that have a version, sorted."""
        # A removal that was interrupted leaves a hidden folder, whose name is not one of a model.
        names = [name for name in self.storage.names("models") if _MODEL_NAME.match(name)]
        return [name for name in names if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Complete versions of a model, ascending; empty for an unknown name."""
        folder = self._model(name)
        numbers = sorted(int(entry) for entry in folder.names("versions") if entry.isdigit())
        # The copy of a bundle ends with its manifest: a version without one is not complete.
        return [n for n in numbers if folder.exists(f"versions/{n}/{checksummed_folder.MANIFEST}")]

    def folder(self, name: str, version: int) -> Storage:
        """The bundle of a version.

        Raises:
            RegistryError: There is no such model or version.
        """
        known = self._known_versions(name)
        if version not in known and self._model(name).exists(f"versions/{version}"):
            raise RegistryError(
                f"version {version} of {name} is not complete: {self._model(name).uri}/versions/"
                f"{version}/{checksummed_folder.MANIFEST} is missing",
                "Put it back, or register the same model again, which completes it: raydc run SPEC "
                f"--resume. Or use another version; there are: {_listed(known)}.",
            )
        if version not in known:
            raise RegistryError(
                f"model {name} has no version {version}", f"There are: {_listed(known)}."
            )
        return self._model(name) / "versions" / str(version)

    def source(self, name: str, version: int) -> dict[str, Any]:
        """The origin of a version as it was registered, with `digest` and `time_s`."""
        self.folder(name, version)
        record = f"versions/{version}.json"
        return read_record(self._model(name), record, "Restore it from a backup.")

    def register(self, name: str, bundle_folder: Storage, source: dict[str, Any]) -> int:
        """Copies a bundle into the registry and verifies the copy.

        A bundle that is registered under this name already keeps its version, whose copy is
        repaired if it is damaged or not complete.

        Args:
            name: Model that gets the version; made if it is new.
            bundle_folder: A verified bundle, such as `runs/<name>/model`.
            source: JSON values that describe its origin (run, step, data hash, ...).

        Returns:
            The version, from 1.

        Raises:
            CheckpointError: The bundle, or its copy, does not verify.
        """
        folder = self._model(name)
        checksummed_folder.read_checksummed(bundle_folder)
        manifest = bundle_folder.read_bytes(checksummed_folder.MANIFEST)
        # The manifest holds the hash of every file, so its own hash identifies the bundle.
        digest = sha256(manifest)
        version = version_records.find_number(folder, digest) or self._by_manifest(name, digest)
        if version is None:
            version = version_records.reserve(folder, digest, source)
        checksummed_folder.complete_copy(
            bundle_folder, folder / "versions" / str(version), manifest
        )
        return version

    def _by_manifest(self, name: str, digest: str) -> int | None:
        """The version with a manifest of this sha256: its record may be damaged or lost."""
        folder = self._model(name)
        for version in self.versions(name):
            if (
                sha256(folder.read_bytes(f"versions/{version}/{checksummed_folder.MANIFEST}"))
                == digest
            ):
                return version
        return None

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version; empty for an unknown name."""
        return {alias: stack[-1] for alias, stack in sorted(self._history(name).state()[1].items())}

    def history_number(self, name: str) -> int:
        """Number of the newest change of a model's aliases; 0 without one."""
        return self._history(name).state()[0]

    def require_unchanged(self, name: str) -> None:
        """Raises OvertakenError if the history has gone on after the number of this registry."""
        self._change(name, lambda _stacks: None)

    def history(self, name: str) -> list[dict[str, Any]]:
        """Moves, oldest first: kind, alias, from, to, who, why, time_s, and fraction if any."""
        return self._history(name).moves()

    def resolve(self, name: str, alias_or_version: str | int) -> int:
        """The version that an alias stands for; a number stands for itself.

        Raises:
            RegistryError: No such model, version or alias; the message lists those that exist.
        """
        known = self._known_versions(name)
        text = str(alias_or_version)
        if text.isdigit():
            self.folder(name, int(text))
            return int(text)
        aliases = self.aliases(name)
        if text not in aliases:
            there = f"There are: {_listed(aliases)}" if aliases else "It has no alias yet"
            hint = f"{_suggestion(text, aliases)}{there}; versions: {_listed(known)}."
            raise RegistryError(f"model {name} has no alias {text!r}", hint)
        return aliases[text]

    def set_alias(self, name: str, alias: str, version: int, who: str = "", why: str = "") -> None:
        """Points an alias at a version; does nothing if it points there already.

        Args:
            name: Model that has the version.
            alias: Alias to move; made if it is new.
            version: Number of a complete version.
            who: User to record; empty takes the user of this process.
            why: Reason to record; may be empty.

        Raises:
            RegistryError: No such model or version.
            UsageError: The alias is not a valid name.
        """
        if not _ALIAS_NAME.match(alias):
            raise UsageError(
                f"{alias!r} cannot name an alias",
                "Start with a letter, then use letters, digits, . _ or -",
            )
        self.folder(name, version)

        def decide(stacks: Stacks) -> Move | None:
            stack = stacks.get(alias, [])
            if stack and stack[-1] == version:
                return None
            stacks[alias] = [*stack, version][-_MAX_KEPT_MOVES:]
            return make_move("set", alias, stack, version, who or user(), why)

        self._change(name, decide)

    def previous(self, name: str, alias: str) -> int:
        """The version that `rollback` would go back to. Raises RegistryError like `rollback`."""
        self._require_alias(name, alias)
        return self._previous(name, alias, self._history(name).state()[1])

    def previous_versions(self, name: str) -> dict[str, int]:
        """Alias to the version that `rollback` would go back to, of aliases that have one."""
        stacks = self._history(name).state()[1]
        return {alias: stack[-2] for alias, stack in stacks.items() if len(stack) > 1}

    def resolve_alias(self, name: str, alias: str) -> int:
        """The version that an alias stands for. Raises RegistryError like `resolve`."""
        self._require_alias(name, alias)
        return self.aliases(name)[alias]

    def rollback(self, name: str, alias: str, who: str = "", why: str = "") -> int:
        """Undoes the last move of an alias that has not been undone yet.

        Args:
            name: Model that has the alias.
            alias: Alias whose last move is undone.
            who: User to record; empty takes the user of this process.
            why: Reason to record; may be empty.

        Returns:
            The version that the alias stands for now.

        Raises:
            RegistryError: No such model or alias, or no version to go back to.
        """
        self._require_alias(name, alias)

        def decide(stacks: Stacks) -> Move:
            stack = stacks[alias]
            target = self._previous(name, alias, stacks)
            stacks[alias] = stack[:-1]
            return make_move("rollback", alias, stack, target, who or user(), why)

        # The version is that of the entry that this call wrote, not of a later one.
        return self._change(name, decide)[alias][-1]

    def remove_alias(self, name: str, alias: str, who: str = "", why: str = "") -> None:
        """Ends an alias. Its history stays; the versions stay.

        Args:
            name: Model that has the alias.
            alias: Alias to end; no endpoint may serve it, which this does not check.
            who: User to record; empty takes the user of this process.
            why: Reason to record; may be empty.

        Raises:
            RegistryError: No such model or alias.
        """
        self._require_alias(name, alias)

        def decide(stacks: Stacks) -> Move | None:
            stack = stacks.pop(alias, [])
            return make_move("removed", alias, stack, None, who or user(), why) if stack else None

        self._change(name, decide)

    def note(self, name: str, move: Move) -> None:
        """Records a canary or a shadow that starts or ends, which changes no alias."""
        self._change(name, lambda _stacks: move)

    def _change(self, name: str, decide: Callable[[Stacks], Move | None]) -> Stacks:
        return self._history(name).change(decide, self._after)

    def _require_alias(self, name: str, alias: str) -> None:
        if alias.isdigit():
            raise RegistryError(
                f"{alias} is a version of {name}, not an alias",
                f"To serve that version: raydc promote SPEC --version {alias}",
            )
        self.resolve(name, alias)

    def _previous(self, name: str, alias: str, stacks: Stacks) -> int:
        stack, known = stacks[alias], self.versions(name)
        if len(stack) < 2:
            raise RegistryError(
                f"alias {alias} of {name} points to version {stack[-1]} and has no move to undo",
                f"Promote another version instead. There are: {_listed(known)}.",
            )
        if stack[-2] not in known:
            raise RegistryError(
                f"version {stack[-2]} of {name}, which alias {alias} stood for before, was removed",
                f"Promote another version instead. There are: {_listed(known)}.",
            )
        return stack[-2]

    def _history(self, name: str) -> AliasHistory:
        return AliasHistory(self._model(name) / "history", name)

    def _model(self, name: str) -> Storage:
        if not _MODEL_NAME.match(name):
            raise UsageError(
                f"{name!r} cannot name a model",
                "Start with a letter or digit, then use letters, digits, . _ or -",
            )
        return self.storage / "models" / name

    def _known_versions(self, name: str) -> list[int]:
        known = self.versions(name)
        if not known:
            models = self.models()
            there = f"There are: {_listed(models)}." if models else "It has no models yet."
            hint = _suggestion(name, models) + there
            raise RegistryError(f"no model {name} in {self.storage.uri}", hint)
        return known


def user() -> str:
    """Name of the user of this process, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return "unknown"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _suggestion(name: str, known: Iterable[str]) -> str:
    """A question with a space after it, for the start of a hint; empty if nothing is similar."""
    question = did_you_mean(name, known, starts_sentence=True)
    return f"{question} " if question else ""
