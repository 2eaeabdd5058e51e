"""Lists and objects in the cells of JSON Lines, which have no column type. Runs in tasks of Ray
Data, and in the driver for a first look.

Where they may be anything, a cell becomes its JSON text; elsewhere only lists of numbers are cells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raydc.data import list_values
from raydc.errors import DataError, shown
from raydc.spec.data import Data

_HINT = (
    "Labels of a row are read with data.task: multilabel; a column that is not learnt from is left "
    "out with data.features.exclude."
)


class Pairs(list[tuple[str, Any]]):
    """Keys and values of a JSON object, in their order."""


class OtherCell:
    """A list or an object that cannot be an input, in a first look at a source.

    Args:
        value: Its value of JSON.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class NestedCells:
    """Which cells may be lists or objects of any kind, and become their JSON text.

    Attributes:
        lists: Columns that may hold any lists.
        free: Columns that may hold any lists and objects.
        inputs: All columns but these may hold any, if it is not None.
        is_look: Whether what cannot be read is an `OtherCell` instead of an error.
    """

    lists: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()
    inputs: frozenset[str] | None = None
    is_look: bool = False

    @classmethod
    def of(cls, data: Data) -> NestedCells:
        """The cells of rows to learn from.

        Args:
            data: Section `data` of the spec.
        """
        lists = [data.target] if data.task == "multilabel" or data.chat is not None else []
        return cls(frozenset(lists), frozenset(data.features.exclude))

    def read(self, place: str, name: str, value: list[Any]) -> str | list[Any] | OtherCell:
        """The cell of a list or of an object.

        Args:
            place: File and line, for messages.
            name: Name of its column.
            value: A list, or the pairs of an object.

        Raises:
            DataError: It is not a list of numbers, where only these are cells.
        """
        is_object = isinstance(value, Pairs)
        is_free = name in self.free or (self.inputs is not None and name not in self.inputs)
        if is_free or (name in self.lists and not is_object):
            text = json.dumps(plain(value), ensure_ascii=False)
            refuse_half_characters(f"{place}: {name}", text)
            return text
        fault = "" if is_object else list_values.fault_of(value)
        if fault is None:
            return list(value)
        if self.is_look:
            return OtherCell(plain(value))
        if is_object:
            raise DataError(
                f"{place}: {name}: an object is not a number, text, list or image",
                f"Give an image as base64 text. {_HINT}",
            )
        fault = list_values.fault_of(plain(value))
        raise DataError(f"{place}: {name}: not a list of numbers: {fault}", _HINT)


def plain(value: Any) -> Any:
    """A value of JSON with dicts as its objects."""
    if isinstance(value, Pairs):
        return {key: plain(inner) for key, inner in value}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def refuse_half_characters(place: str, text: str) -> None:
    """Refuses half of a pair of escapes, such as \\ud800, which cannot be stored as text.

    Args:
        place: File, line and column, for the message.
        text: A text of the file.

    Raises:
        DataError: There is one.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: half a character at position {error.start} of {shown(text)}",
            "Programs that cut texts by the number of their characters write such.",
        ) from error


def other_column(cells: Sequence[Any]) -> pa.Array:
    """A column some of whose cells are `OtherCell`, of the type that Parquet would give it."""
    given = [cell.value if isinstance(cell, OtherCell) else cell for cell in cells]
    try:
        return pa.array(given)
    except (pa.ArrowException, OverflowError):
        # No type holds all of them.
        return pa.nulls(len(given), pa.list_(pa.string()))
