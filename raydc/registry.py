"""Names for models: numbered versions that never change, aliases that move, and who moved them.

    models/<name>/versions/<n>/         a bundle, copied and verified
    models/<name>/versions/<n>.json     where it came from; making this file takes the number
    models/<name>/history/<k>.json      the k-th change of an alias, and all aliases after it

The newest entry of the history is the state, so one file created exclusively is the whole transaction: two
people who move an alias at once get two entries, one after the other, and neither is lost. (An object store
without exclusive creation leaves that race to its users.)
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raydc import artefact
from raydc.errors import CheckpointError, RegistryError, UsageError, did_you_mean
from raydc.storage import Storage, canonical_json, sha256

_MODEL_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*$")
_ALIAS_NAME = re.compile(r"^[A-Za-z][\w.-]*$")
# Each attempt loses to another writer that went on, so the limit is how many can be ahead at once.
_MAX_ATTEMPTS = 100
_MAX_KEPT_MOVES = 100


@dataclass(frozen=True)
class Move:
    """One change of an alias, or of what runs beside it.

    `kind` is `set` or `rollback`, which move the alias; `canary` or `shadow` when a version begins to run beside the
    alias's (with the fraction of requests), `canary ended` or `shadow ended` when it ends. A version is None where
    there was or is none.
    """

    kind: str
    alias: str
    old: int | None
    new: int | None
    who: str
    why: str
    time_s: float
    fraction: float | None = None

    def to_dict(self) -> dict[str, Any]:
        names = {"old": "from", "new": "to"}
        told = {
            name: value
            for name, value in vars(self).items()
            if name != "fraction" or value is not None
        }
        return {names.get(name, name): value for name, value in told.items()}


class Registry:
    """The models of one store."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    # Versions ---------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names that have a version, sorted."""
        return [name for name in self.storage.names("models") if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Complete versions of a model, ascending; empty for an unknown name."""
        folder = self._model(name)
        numbers = sorted(int(entry) for entry in folder.names("versions") if entry.isdigit())
        return [
            number for number in numbers if folder.exists(f"versions/{number}/{artefact.MANIFEST}")
        ]

    def folder(self, name: str, version: int) -> Storage:
        """The bundle of a version.

        Raises:
            RegistryError: There is no such model or version.
        """
        known = self._known_versions(name)
        if version not in known:
            raise RegistryError(
                f"model {name} has no version {version}", f"There are: {_listed(known)}."
            )
        return self._model(name) / "versions" / str(version)

    def source(self, name: str, version: int) -> dict[str, Any]:
        """Where a version came from, as it was registered, with `digest` and `time_s`."""
        self.folder(name, version)
        record: dict[str, Any] = self._model(name).read_json(f"versions/{version}.json")
        return record

    def register(self, name: str, bundle_folder: Storage, source: dict[str, Any]) -> int:
        """Copies a bundle into the registry and verifies the copy.

        A bundle that is registered under this name already keeps its version.

        Args:
            name: The model.
            bundle_folder: A verified bundle, such as `runs/<name>/model`.
            source: JSON values that say where it came from (run, step, data hash, ...).

        Returns:
            The version, from 1.

        Raises:
            CheckpointError: The bundle, or its copy, does not verify.
        """
        folder = self._model(name)
        artefact.read_artefact(bundle_folder)
        manifest = bundle_folder.read_bytes(artefact.MANIFEST)
        digest = sha256(manifest)
        for version in self.versions(name):
            if sha256(folder.read_bytes(f"versions/{version}/{artefact.MANIFEST}")) == digest:
                return version
        version = self._reserve(
            folder, {**source, "digest": digest, "time_s": round(time.time(), 3)}
        )
        _copy(bundle_folder, folder / "versions" / str(version), manifest)
        return version

    def _reserve(self, folder: Storage, record: dict[str, Any]) -> int:
        content = canonical_json(record, indent=2) + b"\n"
        taken = [
            int(entry[:-5])
            for entry in folder.names("versions")
            if re.fullmatch(r"\d+\.json", entry)
        ]
        first = max(taken, default=0) + 1
        for version in range(first, first + _MAX_ATTEMPTS):
            if folder.create_bytes(f"versions/{version}.json", content):
                return version
        raise RegistryError(
            f"{folder.uri}: no version number could be had in {_MAX_ATTEMPTS} attempts"
        )

    # Aliases ----------------------------------------------------------------------------------------------

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version; empty for an unknown name."""
        return {alias: stack[-1] for alias, stack in sorted(self._state(name)[1].items())}

    def history(self, name: str) -> list[dict[str, Any]]:
        """Every change of an alias, oldest first: kind, alias, from, to, who, why, time_s, fraction if any."""
        folder = self._model(name)
        return [folder.read_json(f"history/{entry}")["move"] for entry in _entries(folder)]

    def resolve(self, name: str, alias_or_version: str | int) -> int:
        """The version that an alias stands for; a number stands for itself.

        Raises:
            RegistryError: No such model, version or alias; the message names those there are.
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
        """Points an alias at a version; nothing happens when it does already.

        Raises:
            RegistryError: No such model or version.
            UsageError: Not a name for an alias.
        """
        if not _ALIAS_NAME.match(alias):
            raise UsageError(
                f"{alias!r} cannot name an alias",
                "Begin with a letter; then letters, digits, . _ -",
            )
        self.folder(name, version)
        for _ in range(_MAX_ATTEMPTS):
            number, stacks = self._state(name)
            stack = stacks.get(alias, [])
            if stack and stack[-1] == version:
                return
            move = _move("set", alias, stack, version, who, why)
            stacks[alias] = [*stack, version][-_MAX_KEPT_MOVES:]
            if self._append(name, number + 1, move, stacks):
                return
        raise RegistryError(
            f"alias {alias} of {name}: lost to other writers {_MAX_ATTEMPTS} times", "Try again."
        )

    def previous(self, name: str, alias: str) -> int:
        """The version that `rollback` would go to. Raises RegistryError as it does."""
        self._require_alias(name, alias)
        return self._previous(name, alias, self._state(name)[1])

    def _require_alias(self, name: str, alias: str) -> None:
        if alias.isdigit():
            raise RegistryError(
                f"{alias} is a version of {name}, not an alias",
                "To go there: raydc promote --version.",
            )
        self.resolve(name, alias)

    def _previous(self, name: str, alias: str, stacks: dict[str, list[int]]) -> int:
        stack = stacks[alias]
        if len(stack) < 2:
            raise RegistryError(
                f"alias {alias} of {name} has stood for version {stack[-1]} only",
                f"Promote another version instead. There are: {_listed(self.versions(name))}.",
            )
        return stack[-2]

    def rollback(self, name: str, alias: str, who: str = "", why: str = "") -> int:
        """Takes back the last move of an alias that has not been taken back yet.

        Returns:
            The version that it stands for now.

        Raises:
            RegistryError: No such model or alias, or nothing to go back to.
        """
        self._require_alias(name, alias)
        for _ in range(_MAX_ATTEMPTS):
            number, stacks = self._state(name)
            stack = stacks[alias]
            move = _move("rollback", alias, stack, self._previous(name, alias, stacks), who, why)
            stacks[alias] = stack[:-1]
            if self._append(name, number + 1, move, stacks):
                return stacks[alias][-1]
        raise RegistryError(
            f"alias {alias} of {name}: lost to other writers {_MAX_ATTEMPTS} times", "Try again."
        )

    def note(self, name: str, move: Move) -> None:
        """Writes into the history what changes no alias: a canary or a shadow that begins or ends.

        Raises:
            RegistryError: Other writers were always faster.
        """
        for _ in range(_MAX_ATTEMPTS):
            number, stacks = self._state(name)
            if self._append(name, number + 1, move, stacks):
                return
        raise RegistryError(
            f"history of {name}: lost to other writers {_MAX_ATTEMPTS} times", "Try again."
        )

    def _append(self, name: str, number: int, move: Move, stacks: dict[str, list[int]]) -> bool:
        record = {"move": move.to_dict(), "aliases": stacks}
        content = canonical_json(record, indent=2) + b"\n"
        return self._model(name).create_bytes(f"history/{number:08d}.json", content)

    def _state(self, name: str) -> tuple[int, dict[str, list[int]]]:
        """Number of the newest entry, and for each alias the versions it has stood for, the current one last."""
        folder = self._model(name)
        entries = _entries(folder)
        if not entries:
            return 0, {}
        return int(entries[-1][:-5]), folder.read_json(f"history/{entries[-1]}")["aliases"]

    # Names ------------------------------------------------------------------------------------------------

    def _model(self, name: str) -> Storage:
        if not _MODEL_NAME.match(name):
            raise UsageError(
                f"{name!r} cannot name a model",
                "Letters, digits, . _ and -, not beginning with . _ or -",
            )
        return self.storage / "models" / name

    def _known_versions(self, name: str) -> list[int]:
        known = self.versions(name)
        if not known:
            models = self.models()
            there = (
                f"There are: {_listed(models)}." if models else "Nothing is registered there yet."
            )
            raise RegistryError(
                f"no model {name} in {self.storage.uri}", _suggestion(name, models) + there
            )
        return known


def user() -> str:
    """Who is at work, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return "unknown"


def _move(kind: str, alias: str, stack: list[int], new: int, who: str, why: str) -> Move:
    old = stack[-1] if stack else None
    return Move(kind, alias, old, new, who or user(), why, round(time.time(), 3))


def _entries(folder: Storage) -> list[str]:
    return [entry for entry in folder.names("history") if re.fullmatch(r"\d{8}\.json", entry)]


def _copy(source: Storage, target: Storage, manifest: bytes) -> None:
    """The manifest goes last: a version without one is not there."""
    try:
        for name in source.names():
            if name != artefact.MANIFEST:
                target.write_bytes(name, source.read_bytes(name))
        target.write_bytes(artefact.MANIFEST, manifest)
        artefact.read_artefact(target)
    except (OSError, CheckpointError):
        target.delete()
        raise


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _suggestion(name: str, known: Iterable[str]) -> str:
    """A question with a space after it, for the beginning of a hint; empty if nothing is similar."""
    question = did_you_mean(name, known, starts_sentence=True)
    return f"{question} " if question else ""
