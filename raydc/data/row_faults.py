"""Rows that cannot be used: what is wrong with which cell. Pure; used in tasks of Ray Data.

With `data.clean.on_error: fail` the first of them ends the preparation with a message. Otherwise
they are left out, counted and, with `quarantine`, listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import label_sets, list_values, values
from raydc.data.layout import Layout, row_number
from raydc.data.split_rules import SplitRule
from raydc.errors import shown
from raydc.spec.label_text import text_of
from raydc.spec.sections import Data

QUARANTINE = "quarantine.jsonl"
# A longer list would not help anybody; the count includes all faults.
MAX_LISTED = 100_000
_MAX_VALUE_CHARS = 200

NOT_A_NUMBER = "is not a number"
NOT_FINITE = "is not a finite number"
MISSING = "the value is missing"
MISSING_TARGET = "the target is missing"
UNKNOWN_LABEL = "is not one of data.classes"
NO_QUERY = "has no value, so that it is ranked with no other row"

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowFault:
    """One cell, or one row, that cannot be used.

    Attributes:
        row_id: Id of the row, which tells its file and number.
        column: Name of the column; empty if the whole row is at fault.
        value: Text of the cell, cut off if it is long; None if the cell is missing.
        reason: What is wrong with the cell or row.
    """

    row_id: int
    column: str
    value: str | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, which are the arguments of the class."""
        return asdict(self)


def cell(column: str, value: Any, reason: str) -> str:
    """The content of the column `values.FAULT` for a row that a reader could not read.

    Args:
        column: Name of the column; empty if the whole row is at fault.
        value: What was found.
        reason: What is wrong with the cell or row.
    """
    return json.dumps([column, _as_text(value), reason])


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else shown(value)
    return text[:_MAX_VALUE_CHARS]


def merged(table: pa.Table, found: Mapping[int, str]) -> pa.ChunkedArray:
    """The column of faults: those of the file's reader, and those that were found later.

    Args:
        table: Rows of a file.
        found: Fault of a row by its position.
    """
    told = (
        table.column(values.FAULT).to_pylist()
        if values.FAULT in table.column_names
        else [None] * table.num_rows
    )
    faults = [before or found.get(row) for row, before in enumerate(told)]
    return pa.chunked_array([pa.array(faults, pa.string())])


def found_by_reader(table: pa.Table) -> Mask:
    """Marks the rows that a reader could not read, bool [B]."""
    if values.FAULT not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return np.asarray(values.column_of(table, values.FAULT).is_valid())


def readable(table: pa.Table) -> pa.Table:
    """The rows of a block that the reader could read."""
    unread = found_by_reader(table)
    return table.filter(pa.array(~unread)) if unread.any() else table


@dataclass(frozen=True)
class FaultFinder:
    """Finds the rows of a block that cannot be used.

    Attributes:
        data: Section `data` of the spec.
        kinds: Kind of each input column.
        rule: The split, which cannot place every row.
        only_split: Whether only faults of the split are looked for.
    """

    data: Data
    kinds: Mapping[str, str]
    rule: SplitRule
    only_split: bool = False

    def mask(self, table: pa.Table) -> Mask:
        """Marks the rows with a fault, bool [B]."""
        found = found_by_reader(table)
        for _, _, wrong in self._checks(table):
            found |= wrong
        return found

    def faults(self, table: pa.Table) -> list[RowFault]:
        """Lists the faults of a block, in the order of the rows and, in a row, of the columns."""
        ids, unread = values.row_ids(table), found_by_reader(table)
        listed: list[tuple[int, int, RowFault]] = []
        for row in np.flatnonzero(unread).tolist():
            told = json.loads(values.column_of(table, values.FAULT)[row].as_py())
            listed.append((row, 0, RowFault(int(ids[row]), *told)))
        for order, (name, reason, wrong) in enumerate(self._checks(table), start=1):
            column = values.column_of(table, name)
            for row in np.flatnonzero(wrong & ~unread).tolist():
                value = _as_text(column[row].as_py())
                listed.append((row, order, RowFault(int(ids[row]), name, value, reason)))
        return [fault for *_, fault in sorted(listed, key=lambda item: item[:2])]

    def _checks(self, table: pa.Table) -> Iterable[tuple[str, str, Mask]]:
        """Yields column, reason and the rows it holds for."""
        yield from self.rule.check(table)
        if self.only_split:
            return
        for name, kind in self.kinds.items():
            column = values.column_of(table, name)
            is_error = self.data.clean.of(name).missing == "error"
            if kind == "numeric":
                parsed = values.parse_numbers(column)
                yield name, NOT_A_NUMBER, parsed.wrong
                yield name, NOT_FINITE, np.isinf(parsed.values)
                missing = parsed.missing
            else:
                missing = values.missing_mask(column)
                if kind == "list" and list_values.is_list(column.type):
                    yield name, list_values.WRONG_ITEM, list_values.wrong_items(column)
                # An image cannot be filled in.
                is_error |= kind == "image" and self.data.clean.of(name).missing != "drop"
            if is_error:
                yield name, MISSING, missing
        if self.data.query is not None:
            query = values.column_of(table, self.data.query)
            yield self.data.query, NO_QUERY, values.missing_mask(query)
        yield from self._target_checks(table)

    def _target_checks(self, table: pa.Table) -> Iterable[tuple[str, str, Mask]]:
        name = self.data.target
        column = values.column_of(table, name)
        missing = values.missing_mask(column)
        if self.data.task == "regression":
            parsed = values.parse_numbers(column)
            yield name, NOT_A_NUMBER, parsed.wrong
            yield name, NOT_FINITE, np.isinf(parsed.values)
            missing = parsed.missing
        elif self.data.classes is not None:
            known = {text_of(label) for label in self.data.classes}
            texts = values.to_texts(column)
            if self.data.task == "multilabel":
                outside = [not known.issuperset(labels) for labels in label_sets.parse_all(texts)]
            else:
                outside = [text is not None and text not in known for text in texts]
            yield name, UNKNOWN_LABEL, np.array(outside, dtype=bool)
        if not self.data.clean.drops_missing_target:
            yield name, MISSING_TARGET, missing


@dataclass(frozen=True)
class Refused:
    """All rows of a data set that cannot be used.

    Attributes:
        num_rows: Number of rows with at least one fault.
        counts: Number of faults by column and reason, as `column: reason`.
        listed: The first faults, by row id.
    """

    num_rows: int
    counts: dict[str, int]
    listed: list[RowFault]

    @classmethod
    def merge(cls, parts: Sequence[Mapping[str, Any]]) -> Refused:
        """Merges what `refused_in` gives for each block, in the order of the rows."""
        counts: dict[str, int] = {}
        for part in parts:
            for what, count in part["counts"].items():
                counts[what] = counts.get(what, 0) + count
        listed = [RowFault(**fault) for part in parts for fault in part["listed"]]
        num_rows = sum(part["num_rows"] for part in parts)
        return cls(num_rows, dict(sorted(counts.items())), listed[:MAX_LISTED])

    def notes(self, layout: Layout) -> Iterable[str]:
        """Yields a line for each kind of fault, with its first place.

        Args:
            layout: Files of the source, from which the lines take the place of a row.
        """
        first: dict[str, RowFault] = {}
        for fault in self.listed:
            first.setdefault(_what(fault), fault)
        for what, count in self.counts.items():
            line = f"left out: {what}: {count:,} {'row' if count == 1 else 'rows'}"
            if what in first:
                found = first[what]
                value = "" if found.value is None else f" ({shown(found.value)})"
                line += f", the first at {layout.describe_row(found.row_id)}{value}"
            yield line

    def lines(self, layout: Layout) -> bytes:
        """Content of the file `quarantine.jsonl`: one JSON object for each fault.

        Args:
            layout: Files of the source, whose names and row numbers are written.
        """
        rows = [
            {
                # Relative to the source, so that a moved source gives the same file.
                "file": layout.file_of(fault.row_id).name,
                "row": row_number(fault.row_id)
                if layout.describe is None
                else layout.describe(fault.row_id),
                "column": fault.column or None,
                "value": fault.value,
                "reason": fault.reason,
            }
            for fault in self.listed
        ]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _what(fault: RowFault) -> str:
    return f"{fault.column}: {fault.reason}" if fault.column else fault.reason


def refused_in(table: pa.Table, finder: FaultFinder) -> dict[str, Any]:
    """Counts and lists the faults of one block, as JSON values.

    Args:
        table: Raw rows of the block.
        finder: Finds the faults.
    """
    faults = finder.faults(table)
    counts: dict[str, int] = {}
    for fault in faults:
        counts[_what(fault)] = counts.get(_what(fault), 0) + 1
    return {
        "num_rows": len({fault.row_id for fault in faults}),
        "counts": counts,
        "listed": [fault.to_json() for fault in faults[:MAX_LISTED]],
    }
