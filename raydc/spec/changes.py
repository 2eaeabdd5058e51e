"""Differences between two specs, field by field. Pure; used by the driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Change:
    """One field that differs between two specs.

    Attributes:
        path: Dotted path of the field.
        before: Value in the first spec; None if it was not given.
        after: Value in the second spec; None if it is not given.
    """

    path: str
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        return f"{self.path}: {_value_text(self.before)} then, {_value_text(self.after)} now"


def differences(before: Any, after: Any) -> list[Change]:
    """Lists the fields in which two specs differ, in the order of their paths.

    Args:
        before: The first spec as plain values (`spec.to_dict`).
        after: The second spec as plain values.
    """
    return sorted(_differences(before, after, ""), key=lambda change: change.path)


def _differences(before: Any, after: Any, path: str) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        # A key that only one side has compares with None, the value of a field that is not given.
        for key in before.keys() | after.keys():
            yield from _differences(
                before.get(key), after.get(key), f"{path}.{key}" if path else str(key)
            )
    elif before != after:
        yield Change(path, before, after)


def _value_text(value: Any) -> str:
    return "not given" if value is None else repr(value)
