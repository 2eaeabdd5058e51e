"""Sizes, ages and numbers as people read them, in the tables of the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence


def size_text(num_bytes: int) -> str:
    """A size in decimal units, as disks are sold and `docker system df` shows: `12.3 MB`."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        # Three digits round 999.5 up to 1000, which belongs to the next unit.
        if size < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 999.5 else f"{size:,.0f} TB"


def age_text(time_s: float | None, now_s: float | None = None) -> str:
    """How long ago something was, in its largest unit: `3 h ago`.

    Args:
        time_s: Unix time of the event; None gives an empty text.
        now_s: Unix time now; None takes the clock of this machine.
    """
    if time_s is None:
        return ""
    # The clock of an object store may be a little ahead of ours.
    seconds = max(0.0, (time.time() if now_s is None else now_s) - time_s)
    for unit, length_s in (("day", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length_s:
            number = int(seconds // length_s)
            return f"{number} {unit}{'s' if unit == 'day' and number > 1 else ''} ago"
    return f"{int(seconds)} s ago"


def number_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with those in a row joined: `1-13, 15`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    # Two in a row are as short with a comma.
    return ", ".join(
        f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts
    )
