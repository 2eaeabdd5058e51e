"""Strings that end an answer, found in a text that comes in parts. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes a text on until one of some strings has come.

    Nothing of such a string is passed on: what may be the beginning of one is kept back until it
    is known. How the text is cut into parts changes nothing.

    Args:
        strings: The strings, none of them empty.

    Attributes:
        is_stopped: Whether one of them has come.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.is_stopped = False
        self._strings = strings
        self._kept = ""

    def add(self, text: str) -> str:
        """Takes the next part, and returns what can be passed on. After a stop that is nothing."""
        if self.is_stopped:
            return ""
        text = self._kept + text
        found = [
            (start + len(one), start) for one in self._strings if (start := text.find(one)) >= 0
        ]
        if found:
            self.is_stopped, self._kept = True, ""
            # The one that ends first: it would be the first to be seen in a text of small parts.
            return text[: min(found)[1]]
        num_kept = max((_overlap(text, one) for one in self._strings), default=0)
        self._kept = text[len(text) - num_kept :]
        return text[: len(text) - num_kept]

    def finish(self) -> str:
        """Returns what was kept back, as no more text comes."""
        kept, self._kept = self._kept, ""
        return kept


def _overlap(text: str, string: str) -> int:
    """Characters at the end of a text that a string begins with, fewer than all of it."""
    longest = min(len(text), len(string) - 1)
    return next((count for count in range(longest, 0, -1) if string.startswith(text[-count:])), 0)
