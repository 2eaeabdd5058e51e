"""The history of a model's aliases: who moved which alias, when and why. Any process may append.

Each entry is a file `<k>.json` with one move and all aliases after it. Creating the next number
exclusively is the whole transaction, so no change is lost and no lock is needed.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydc.errors import OvertakenError, RegistryError
from raydc.storage import OWN_HASH, Storage, broken_seal, canonical_json, seal

# Each attempt loses to one other writer, so the limit is how many writers can be ahead at once.
_MAX_ATTEMPTS = 100
# Entries without `format` have format 1.
_FORMAT = 1
_REMEDY = (
    "Restore it from a backup. Or, if it is the newest, delete it: then the aliases are those of "
    "the entry before it."
)

logger = logging.getLogger("raydc")

# The versions that each alias has stood for, the current one last.
Stacks = dict[str, list[int]]


@dataclass(frozen=True)
class Move:
    """One change of an alias, or of its canary or shadow.

    Attributes:
        kind: `set` or `rollback`, which move the alias; `removed`, which ends it; `canary` or
            `shadow` for one that starts or changes its fraction; `canary ended`, `shadow ended`.
        alias: Alias that moved, or whose endpoint runs the canary or shadow.
        old: Version before the change; None if there was none.
        new: Version after it; None if there is none.
        who: Name of the user who made it.
        why: Reason that the user gave; may be empty.
        time_s: Unix time of the change.
        fraction: Fraction of the requests, 0 to 1, of a canary or shadow; None for other kinds.
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
        """The `move` of an entry, where `old` and `new` are called `from` and `to`."""
        names = {"old": "from", "new": "to"}
        fields = {k: v for k, v in vars(self).items() if k != "fraction" or v is not None}
        return {names.get(name, name): value for name, value in fields.items()}


def make_move(kind: str, alias: str, stack: list[int], new: int | None, who: str, why: str) -> Move:
    """A move of an alias now.

    Args:
        kind: `set`, `rollback` or `removed`.
        alias: Name of the alias, which need not exist yet.
        stack: The versions that it has stood for, the current one last.
        new: Version after; None if the alias ends.
        who: Name of the user who moves it.
        why: Reason that the user gave; may be empty.
    """
    return Move(kind, alias, stack[-1] if stack else None, new, who, why, round(time.time(), 3))


class AliasHistory:
    """The entries of one model.

    Args:
        folder: `models/<name>/history` of a storage.
        model: The model, for messages.
    """

    def __init__(self, folder: Storage, model: str) -> None:
        self.folder = folder
        self.model = model

    def moves(self) -> list[dict[str, Any]]:
        """Every move, oldest first. Raises RegistryError for an entry that cannot be read."""
        return [
            read_record(self.folder, entry, _REMEDY)["move"]
            for entry in self._entries()
            if not self._is_empty(entry)
        ]

    def state(self) -> tuple[int, Stacks]:
        """Number of the newest entry, 0 without one, and the aliases after it."""
        entries = self._entries()
        if not entries:
            return 0, {}
        number = int(entries[-1][:-5])
        empty = []
        while entries and self._is_empty(entries[-1]):
            empty.append(entries.pop())
        if empty:
            # A power loss leaves such a file of a raydc that did not sync it; the move that it
            # should have held was not reported as done.
            logger.warning(
                "%s/%s is empty and left out: the aliases are those of %s",
                self.folder.uri,
                ", ".join(empty),
                entries[-1] if entries else "no entry",
            )
        stacks: Stacks = (
            read_record(self.folder, entries[-1], _REMEDY)["aliases"] if entries else {}
        )
        return number, stacks

    def _is_empty(self, entry: str) -> bool:
        return not self.folder.read_bytes(entry).strip(b"\0\n ")

    def change(self, decide: Callable[[Stacks], Move | None], after: int | None = None) -> Stacks:
        """Appends one move.

        Args:
            decide: Changes the aliases that it is given and returns the move, or None to leave
                all as it is. It is called again on newer aliases if another writer was faster.
            after: Number of the entry on which the caller has decided, 0 for none; the move must
                be the next one. None takes any.

        Returns:
            The aliases after it.

        Raises:
            OvertakenError: There is an entry after `after`. Nothing was written.
            RegistryError: Other writers were faster each time.
        """
        for _ in range(_MAX_ATTEMPTS):
            number, stacks = self.state()
            if after is not None and number != after:
                raise self._overtaken(number)
            move = decide(stacks)
            if move is None:
                return stacks
            record = {"format": _FORMAT, "move": move.to_dict(), "aliases": stacks}
            content = canonical_json(seal(record), indent=2) + b"\n"
            if self.folder.create_bytes(f"{number + 1:08d}.json", content):
                return stacks
        raise RegistryError(
            f"history of {self.model}: other writers were faster {_MAX_ATTEMPTS} times",
            "Try again.",
        )

    def _overtaken(self, number: int) -> OvertakenError:
        """The error that names the newest move, which came before that of the caller."""
        move = read_record(self.folder, f"{number:08d}.json", _REMEDY)["move"]
        return OvertakenError(
            f"{self.model} was changed meanwhile: {move['who']} recorded {move['kind']!r} of alias "
            f"{move['alias']!r}, version {move['from']} to {move['to']}. That stands, and this "
            "change was not made",
            f"See `raydc models {self.model}`; then try again if it is still wanted.",
        )

    def _entries(self) -> list[str]:
        return [name for name in self.folder.names() if re.fullmatch(r"\d{8}\.json", name)]


def running_beside(moves: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """Version of each (alias, `canary` or `shadow`) that has started and not ended. Pure.

    Args:
        moves: Moves as `AliasHistory.moves` returns them, oldest first.
    """
    open_: dict[tuple[str, str], int] = {}
    for move in moves:
        kind = move["kind"].removesuffix(" ended")
        if kind not in ("canary", "shadow"):
            continue
        if move["to"] is None:
            open_.pop((move["alias"], kind), None)
        else:
            open_[move["alias"], kind] = move["to"]
    return open_


def read_record(folder: Storage, name: str, remedy: str) -> dict[str, Any]:
    """A JSON object of the registry.

    Args:
        folder: Folder of the registry that holds the file.
        name: Name of the file in the folder.
        remedy: What to do if the file is damaged, for the message.

    Raises:
        RegistryError: It is missing, damaged, or of a format that this raydc does not read.
    """
    try:
        record = folder.read_json(name)
    except (FileNotFoundError, ValueError) as error:
        raise RegistryError(f"{folder.uri}/{name} cannot be read: {error}", remedy) from error
    if isinstance(record, dict) and (wrong := broken_seal(record)) is not None:
        raise RegistryError(f"{folder.uri}/{name} is damaged: {wrong}", remedy)
    found = record.get("format", _FORMAT) if isinstance(record, dict) else None
    if not isinstance(record, dict) or found != _FORMAT:
        raise RegistryError(
            f"{folder.uri}/{name} has format {found!r}, but this raydc reads {_FORMAT}",
            "A newer raydc wrote it: upgrade this one (`pip install --upgrade raydc`).",
        )
    record.pop(OWN_HASH, None)
    return record
