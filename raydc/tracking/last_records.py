"""The last records of a log of metrics, from the end of its file. Pure.

A run of a million steps has a log of some hundred megabytes. What a list of runs shows of it is in
its last lines, and the last epoch some thousand lines before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from raydc.tracking import events

# Lines of an epoch or a start, however their writer puts spaces; no others are parsed.
_MARKED = re.compile(rb'"kind": ?"(?:epoch|start)"')


@dataclass(frozen=True)
class LastRecords:
    """Where a run is.

    Attributes:
        last: Last record that survives; empty if there is none.
        epoch: Last record of an epoch that survives; empty if there is none.
        has_records: Whether the log has any record, or nothing was in it.
    """

    last: dict[str, Any] = field(default_factory=dict)
    epoch: dict[str, Any] = field(default_factory=dict)
    has_records: bool = True


def find(parts: Iterable[tuple[bytes, bool]]) -> LastRecords:
    """Finds the last records; takes no more parts than it needs.

    Args:
        parts: Adjacent parts of the log, from its end to its beginning, each with whether a file
            begins with it. A line may be in several parts.
    """
    records: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    rest, is_empty = b"", True
    for part, begins_file in parts:
        is_empty = is_empty and not part
        text = part + rest
        # The line before the first line break continues in the next part.
        rest, lines = (b"", text) if begins_file else _split_first(text)
        records = [*_parse(lines.splitlines(), records, history), *records]
        history = events.surviving(iter(records))
        epochs = [record for record in history if record["kind"] == "epoch"]
        if epochs:
            return LastRecords(history[-1], epochs[-1])
    return LastRecords(history[-1] if history else {}, {}, bool(records) or is_empty)


def _parse(
    lines: list[bytes], later: list[dict[str, Any]], history: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The records of some lines, in their order; once one survives, only epochs and starts.

    Args:
        lines: Adjacent lines of the log.
        later: Records after them.
        history: Those of them that survive.
    """
    found: list[dict[str, Any]] = []
    is_enough = bool(history)
    for line in reversed(lines):
        if is_enough and not _MARKED.search(line):
            continue
        record = events.parse_line(line)
        if record is not None:
            found.append(record)
            # The last record of all survives, unless it is a start, which may take back many.
            is_last = not later and len(found) == 1
            is_enough = is_enough or (is_last and record["kind"] != "start")
    return found[::-1]


def _split_first(text: bytes) -> tuple[bytes, bytes]:
    """The first line, and what follows it; without a line break all of it is one."""
    first, _, others = text.partition(b"\n")
    return first, others
