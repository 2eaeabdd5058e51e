"""What differs between two specs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Change:
    """A field that differs: its path and both values, None where it was not given."""

    path: str
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        return f"{self.path}: {_value_text(self.before)} then, {_value_text(self.after)} now"


def differences(before: Any, after: Any) -> list[Change]:
    """The fields in which two specs, as plain values, differ, by path."""
    return sorted(_differences(before, after, ""), key=lambda change: change.path)


def _differences(before: Any, after: Any, path: str) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from _differences(
                before.get(key), after.get(key), f"{path}.{key}" if path else str(key)
            )
    elif before != after:
        yield Change(path, before, after)


def _value_text(value: Any) -> str:
    return "not given" if value is None else repr(value)
