"""What each column holds. Blocks are scanned in tasks of Ray Data, scans are merged in the driver.

Merging adds counts and keeps the first place of each oddity, so that the result is the same however
the rows were cut into blocks. `raydc.data.column_kinds` decides from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import list_values, row_faults, values
from raydc.data.layout import file_indices
from raydc.errors import shown
from raydc.order import Ids


@dataclass(frozen=True)
class Occurrences:
    """Cells of a column that have something in common.

    Attributes:
        count: Number of such cells.
        first_row: Lowest row id among them; None if there are none.
        first_value: Its cell as a message shows it; None if the cell says nothing.
    """

    count: int = 0
    first_row: int | None = None
    first_value: str | None = None

    def plus(self, later: Occurrences) -> Occurrences:
        """Adds the occurrences of later rows."""
        first = later if self.first_row is None else self
        return Occurrences(self.count + later.count, first.first_row, first.first_value)


@dataclass(frozen=True)
class Rising:
    """Whether a column numbers its rows.

    Attributes:
        is_whole: Whether every row has a whole number.
        rises: Whether each is greater than the one before.
        low: Number of the first row; None if there are no rows.
        high: Number of the last row.
    """

    is_whole: bool = True
    rises: bool = True
    low: float | None = None
    high: float | None = None

    def plus(self, later: Rising) -> Rising:
        """Adds later rows."""
        if self.low is None or later.low is None:
            return later if self.low is None else self
        if not (self.is_whole and later.is_whole):
            return _NOT_RISING
        return Rising(
            True,
            self.rises and later.rises and (self.high or 0.0) < later.low,
            self.low,
            later.high,
        )


# Stands for rows with a cell that is not a whole number; adding rows does not change it.
_NOT_RISING = Rising(is_whole=False, rises=False, low=0.0, high=0.0)


@dataclass(frozen=True)
class ColumnScan:
    """What a column holds in some rows.

    Attributes:
        first_of_kind: First row id of each kind (see `values.kind_of`) of its blocks; empty if no
            block has the column.
        missing: Null cells, and NaN if the column holds numbers.
        missing_numbers: Cells without a number when read as numbers: null, NaN, or text of NaN.
        wrong: Cells that are not numbers when read as numbers.
        infinite: Cells that are infinite when read as numbers.
        arrow_type: Name of a type that cannot be an input; None for other types.
        shapes: First row id of each image shape, `HxWxC`, or of what lists hold.
        line_breaks: Cells of text with a line break.
        rising: Whether its numbers rise from row to row.
    """

    first_of_kind: dict[str, int] = field(default_factory=dict)
    missing: Occurrences = Occurrences()
    missing_numbers: Occurrences = Occurrences()
    wrong: Occurrences = Occurrences()
    infinite: Occurrences = Occurrences()
    arrow_type: str | None = None
    shapes: dict[str, int] = field(default_factory=dict)
    line_breaks: Occurrences = Occurrences()
    rising: Rising = Rising()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Sorted kinds of its blocks."""
        return tuple(sorted(self.first_of_kind))

    def plus(self, later: ColumnScan) -> ColumnScan:
        """Adds the scan of later rows of the same column."""
        return ColumnScan(
            # The row of an earlier block wins.
            {**later.first_of_kind, **self.first_of_kind},
            self.missing.plus(later.missing),
            self.missing_numbers.plus(later.missing_numbers),
            self.wrong.plus(later.wrong),
            self.infinite.plus(later.infinite),
            self.arrow_type or later.arrow_type,
            {**later.shapes, **self.shapes},
            self.line_breaks.plus(later.line_breaks),
            self.rising.plus(later.rising),
        )


@dataclass(frozen=True)
class BlockScan:
    """What the columns of some rows hold.

    Attributes:
        num_rows: Number of rows that were scanned.
        first_row: Id of the first row; None if there are no rows.
        columns: Scans by name, in the order of the sources.
        files: Sorted indices of the files that hold these rows.
        num_unread: Rows that the reader could not read, which count nowhere else.
        num_unmatched: Rows without a match in each table of `data.joins`.
    """

    num_rows: int = 0
    first_row: int | None = None
    columns: dict[str, ColumnScan] = field(default_factory=dict)
    files: tuple[int, ...] = ()
    num_unread: int = 0
    num_unmatched: tuple[int, ...] = ()

    @property
    def has_rows(self) -> bool:
        """Whether there are any rows, read or not."""
        return self.num_rows + self.num_unread > 0

    def to_json(self) -> dict[str, Any]:
        """Converts it to plain JSON values, which a task returns."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BlockScan:
        """The inverse of `to_json`."""
        columns = {
            name: ColumnScan(
                column["first_of_kind"],
                Occurrences(**column["missing"]),
                Occurrences(**column["missing_numbers"]),
                Occurrences(**column["wrong"]),
                Occurrences(**column["infinite"]),
                column["arrow_type"],
                column["shapes"],
                Occurrences(**column["line_breaks"]),
                Rising(**column["rising"]),
            )
            for name, column in value["columns"].items()
        }
        return cls(
            value["num_rows"],
            value["first_row"],
            columns,
            tuple(value["files"]),
            value["num_unread"],
            tuple(value["num_unmatched"]),
        )


def scan_block(table: pa.Table) -> BlockScan:
    """Scans the columns of one block of raw rows."""
    # Ray Data makes a block without columns of a file without rows.
    if not table.num_rows:
        return BlockScan()
    every_id = values.row_ids(table)
    readable = row_faults.readable(table)
    ids = values.row_ids(readable)
    num_unread = table.num_rows - len(ids)
    columns = {
        name: _scan_column(values.column_of(readable, name), ids)
        for name in table.column_names
        if not values.is_internal(name) and len(ids)
    }
    unmatched = _count_unmatched(readable)
    files = file_indices(every_id)
    return BlockScan(len(ids), int(every_id[0]), columns, files, num_unread, unmatched)


def _count_unmatched(table: pa.Table) -> tuple[int, ...]:
    if values.UNMATCHED not in table.column_names:
        return ()
    bits = np.asarray(values.column_of(table, values.UNMATCHED))
    counts = [int(((bits >> np.uint64(number)) & np.uint64(1)).sum()) for number in range(64)]
    return tuple(counts)


def _scan_column(column: pa.Array, ids: Ids) -> ColumnScan:
    kind = values.kind_of(column.type)
    is_missing_B = values.missing_mask(column)
    missing = _occurrences(is_missing_B, ids)
    first_of_kind = {kind: int(ids[0])}
    if kind == "image":
        shapes = _first_of_each_shape(column, is_missing_B, ids)
        return ColumnScan(first_of_kind, missing, shapes=shapes, rising=_NOT_RISING)
    if kind == "list":
        shape = list_values.item_shape(column)
        wrong = _occurrences(list_values.wrong_items(column), ids, column)
        shapes = {} if shape is None else {shape: int(ids[np.flatnonzero(~is_missing_B)[0]])}
        return ColumnScan(first_of_kind, missing, wrong=wrong, shapes=shapes, rising=_NOT_RISING)
    if pa.types.is_string(column.type) and is_missing_B.all():
        # A block of JSON Lines knows no type of a column without a value.
        first_of_kind = {}
    if kind == "other":
        return ColumnScan(first_of_kind, missing, arrow_type=str(column.type), rising=_NOT_RISING)
    # Text is read as numbers too: whether a column is numeric depends on all of its values.
    parsed = values.parse_numbers(column)
    missing_numbers = _occurrences(parsed.missing, ids)
    return ColumnScan(
        first_of_kind,
        missing if kind == "text" else missing_numbers,
        missing_numbers,
        _occurrences(parsed.wrong, ids, column),
        _occurrences(np.isinf(parsed.values), ids, column),
        line_breaks=_occurrences(values.has_line_break(column), ids, column),
        rising=_rising(parsed.values),
    )


def _rising(numbers_B: values.Floats) -> Rising:
    # NaN, of missing and of wrong cells, equals nothing.
    if not (np.isfinite(numbers_B) & (numbers_B == np.floor(numbers_B))).all():
        return _NOT_RISING
    rises = bool((numbers_B[1:] > numbers_B[:-1]).all())
    return Rising(True, rises, float(numbers_B[0]), float(numbers_B[-1]))


def _first_of_each_shape(
    column: pa.Array, is_missing_B: npt.NDArray[np.bool_], ids: Ids
) -> dict[str, int]:
    first: dict[str, int] = {}
    for index in np.flatnonzero(~is_missing_B):
        # Fields of `values.IMAGE` after the pixels.
        height, width, channels = (column.field(part)[int(index)].as_py() for part in (1, 2, 3))
        first.setdefault(f"{height}x{width}x{channels}", int(ids[index]))
    return first


def _occurrences(
    mask_B: npt.NDArray[np.bool_], ids: Ids, column: pa.Array | None = None
) -> Occurrences:
    where = np.flatnonzero(mask_B)
    if not len(where):
        return Occurrences()
    value = None if column is None else shown(column[int(where[0])].as_py())
    return Occurrences(len(where), int(ids[where[0]]), value)


def merge_scans(scans: Iterable[BlockScan]) -> BlockScan:
    """Merges the scans of blocks, given in the order of their rows.

    A column that a block lacks is missing in all rows of it.
    """
    num_rows, num_unread, first_row = 0, 0, None
    unmatched: Counter[int] = Counter()
    files: set[int] = set()
    columns: dict[str, ColumnScan] = {}
    for scan in scans:
        for name in scan.columns:
            if name not in columns:
                columns[name] = _all_missing(num_rows, first_row)
        for name, column in columns.items():
            later = scan.columns.get(name) or _all_missing(scan.num_rows, scan.first_row)
            columns[name] = column.plus(later)
        num_rows += scan.num_rows
        num_unread += scan.num_unread
        unmatched.update(dict(enumerate(scan.num_unmatched)))
        files.update(scan.files)
        first_row = scan.first_row if first_row is None else first_row
    counts = tuple(unmatched[number] for number in sorted(unmatched))
    return BlockScan(num_rows, first_row, columns, tuple(sorted(files)), num_unread, counts)


def _all_missing(num_rows: int, first_row: int | None) -> ColumnScan:
    every_row = Occurrences(num_rows, first_row) if num_rows else Occurrences()
    rising = _NOT_RISING if num_rows else Rising()
    return ColumnScan(missing=every_row, missing_numbers=every_row, rising=rising)
