"""The journal of a sweep in storage: numbered objects, created only if absent, never changed.

Runs in the driver. An object store cannot append to an object, so each line is an object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raydc.errors import RunError
from raydc.storage import Storage, sha256

_REMEDY = (
    "Continue with the raydc that has begun this sweep, restore the file, "
    "or pass --new to begin it again."
)


class DecisionLog:
    """The journal of one sweep.

    Args:
        folder: Folder of its objects, `00000001.json` and so on; it need not exist.

    Raises:
        RunError: An object is missing, or it does not follow the one before it.
    """

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self.lines: list[bytes] = []
        before = ""
        names = [name for name in folder.names() if name.endswith(".json")]
        for number, name in enumerate(names, start=1):
            line = folder.read_bytes(name).removesuffix(b"\n")
            record = _parse(line)
            if name != _name(number) or record.get("before") != before:
                raise RunError(
                    f"{folder.uri}/{name} does not follow decision {number - 1} of this sweep: "
                    f"expected {_name(number)} with the hash {before[:16] or 'of none'} before it, "
                    f"found {str(record.get('before'))[:16]}",
                    _REMEDY,
                )
            self.lines.append(line)
            before = sha256(line)

    def records(self) -> list[dict[str, Any]]:
        """What the lines say, in order."""
        return [_parse(line) for line in self.lines]

    def past_samples(self) -> list[int]:
        """Numbers of trials with which the sweep has ended, or was about to end, ascending."""
        ends = [one for one in self.records() if one.get("kind") in ("closing", "end")]
        return sorted({end["samples"] for end in ends})

    def results(self) -> dict[tuple[int, int], float | None]:
        """The metrics that were decided upon, by number of the trial and of the rung."""
        return {
            (entry["trial"], entry["rung"]): entry["metric"]
            for entry in self.records()
            if entry.get("kind") == "entry"
        }

    def extend(self, lines: Sequence[bytes]) -> None:
        """Writes what is new of a journal.

        Args:
            lines: The whole journal as `decide` returns it.

        Raises:
            RunError: The sweep has decided differently before.
            OSError: The store refuses.
        """
        for number, (old, new) in enumerate(zip(self.lines, lines, strict=False), start=1):
            self._compare(number, old, new)
        for number in range(len(self.lines) + 1, len(lines) + 1):
            line = lines[number - 1]
            if not self._folder.create_bytes(_name(number), line + b"\n"):
                found = self._folder.read_bytes(_name(number)).removesuffix(b"\n")
                self._compare(number, found, line)
            self.lines.append(line)

    def _compare(self, number: int, old: bytes, new: bytes) -> None:
        if old == new:
            return
        raise RunError(
            f"{self._folder.uri}/{_name(number)} has another decision than its results give now: "
            f"{_shorten(old)} before, {_shorten(new)} now",
            _REMEDY,
        )


def _name(number: int) -> str:
    return f"{number:08d}.json"


def _parse(line: bytes) -> dict[str, Any]:
    """The record of a line; empty if it is damaged, so that it follows nothing."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _shorten(line: bytes) -> str:
    """A decision without its hashes, for a message."""
    record = {name: value for name, value in _parse(line).items() if name != "before"}
    return json.dumps(record, sort_keys=True)[:200]
