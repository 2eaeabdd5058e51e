"""Rows of series in the order of time, and their faults. Pure; used in tasks of Ray Data.

A task holds all rows of its series at once: time, id and the columns of the windows take 8 bytes
each. Rows of one key always meet in one task, so that nothing depends on how the sources were cut
into blocks.

Shape suffixes: N rows of all series, C columns of a window.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import list_values, row_faults, times, values
from raydc.data.split_rules import NO_TIME
from raydc.errors import shown
from raydc.order import Ids
from raydc.spec.windows import Windows

NO_KEY = "has no value, so that it belongs to no series"
NO_ROW = "the row cannot be read"
REPEATED = "another row of this series has the same time"
# Fraction of a step by which two times may be off: 30 times a second has no end in decimals.
_STEP_TOLERANCE = 1e-4
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass
class Oddity:
    """Rows with one fault.

    Attributes:
        count: Number of rows with the fault.
        row_id: Lowest id among them.
        text: What is wrong with that row: column, value and reason.
    """

    count: int
    row_id: int
    text: str

    def add(self, other: Oddity) -> None:
        """Adds other rows with the same fault."""
        first = min(self, other, key=lambda one: one.row_id)
        self.row_id, self.text = first.row_id, first.text
        self.count += other.count


class Oddities(dict[str, Oddity]):
    """Faults by kind: `row`, `repeat`, `gap` and `missing`, each with its column and reason."""

    def note(self, kind: str, what: str, ids: Ids, texts: Sequence[str]) -> None:
        """Adds rows.

        Args:
            kind: Kind of the fault, which decides which option applies to it.
            what: Column and reason, under which rows are counted.
            ids: Ids of the rows with the fault.
            texts: What is wrong with each row; or one text, for the row with the lowest id.
        """
        if len(ids):
            first = int(np.argmin(ids))
            text = texts[first if len(texts) > 1 else 0]
            self.merge({f"{kind}|{what}": Oddity(len(ids), int(ids[first]), text)})

    def merge(self, other: dict[str, Oddity]) -> None:
        """Adds the faults of other rows."""
        for name, one in other.items():
            if name in self:
                self[name].add(one)
            else:
                self[name] = one


@dataclass(frozen=True)
class SeriesRows:
    """Rows sorted by series and time, without those that cannot be used.

    Attributes:
        ids: Row ids, in the order of series and time.
        times: Time of each row, as a number.
        series: Number of the series of each row, ascending.
        inputs_NC: Values of the columns of the windows; NaN for a missing one.
        target_N: Values of the target; NaN for a missing one.
        others: Columns of key, time and further inputs.
        breaks: Whether no window reaches from the row before to this one.
    """

    ids: Ids
    times: Floats
    series: npt.NDArray[np.int64]
    inputs_NC: Floats
    target_N: Floats
    others: pa.Table
    breaks: Mask

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: npt.NDArray[Any]) -> SeriesRows:
        """Some of the rows, by positions or by a mask."""
        places = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return SeriesRows(
            self.ids[places],
            self.times[places],
            self.series[places],
            self.inputs_NC[places],
            self.target_N[places],
            self.others.take(pa.array(places)),
            self.breaks[places],
        )


@dataclass(frozen=True)
class SeriesReader:
    """Collects the rows of some series from blocks in any order.

    Attributes:
        windows: Section `data.windows` of the spec.
        target: Name of the target column.
        others: Names of further columns that are kept.
        part_starts: Lowest row ids of the official parts behind the training part, whose rows are
            series of their own.
        texts: Those of `others` whose cells are kept exactly as they are written.
    """

    windows: Windows
    target: str
    others: tuple[str, ...]
    part_starts: tuple[int, ...] = ()
    texts: frozenset[str] = frozenset()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of which a window holds the past."""
        return self.windows.inputs(self.target)

    def read(
        self, tables: Iterable[pa.Table], part: int, num_parts: int
    ) -> tuple[SeriesRows, Oddities]:
        """Collects rows.

        Args:
            tables: Raw rows of all blocks.
            part: Number of the part to collect; a hash of the key decides the part of a series.
            num_parts: Number of parts that all series are divided into.
        """
        odd = Oddities()
        pieces = [self._usable(table, part, num_parts, odd) for table in tables]
        pieces = [piece for piece in pieces if piece.num_rows] or [self._usable_none()]
        table = pa.concat_tables(list_values.with_one_type(pieces))
        ids = values.row_ids(table)
        columns = dict.fromkeys((*self.inputs, self.target))
        numbers = {name: np.asarray(table.column(f"number.{name}")) for name in columns}
        rows = SeriesRows(
            ids,
            np.asarray(table.column("time")),
            self._series_of(table, ids),
            np.stack([numbers[name] for name in self.inputs], axis=1),
            numbers[self.target],
            table.select([f"other.{name}" for name in self.others]).rename_columns(self.others),
            np.zeros(len(ids), dtype=bool),
        )
        rows = rows.take(np.lexsort((rows.ids, rows.times, rows.series)))
        rows = self._without_repeats(rows, odd)
        rows = self._with_breaks(rows, odd)
        for name, column in zip(columns, (*rows.inputs_NC.T, rows.target_N), strict=False):
            lacks = rows.ids[np.isnan(column)]
            told = f"{name}: {row_faults.MISSING}"
            odd.note("missing", told, lacks, [told])
        return rows, odd

    def _usable_none(self) -> pa.Table:
        names = dict.fromkeys((*self.inputs, self.target))
        return pa.table(
            {
                values.ROW_ID: pa.array([], pa.int64()),
                "time": pa.array([], pa.float64()),
                "key": pa.array([], pa.string()),
                **{f"number.{name}": pa.array([], pa.float64()) for name in names},
                **{f"other.{name}": pa.array([], pa.string()) for name in self.others},
            }
        )

    def _usable(self, table: pa.Table, part: int, num_parts: int, odd: Oddities) -> pa.Table:
        """The rows of a block that are of this part and have a time, a key and only numbers."""
        if not table.num_rows:
            return self._usable_none()
        if num_parts > 1:
            mine = [_part_of(key, num_parts) == part for key in self._keys(table)]
            table = table.filter(pa.array(mine))
        keys = self._keys(table)
        parsed = {
            name: values.parse_numbers(values.column_of(table, name))
            for name in dict.fromkeys((*self.inputs, self.target))
        }
        found = times.parse_times(values.column_of(table, self.windows.time))
        bad = row_faults.found_by_reader(table)
        self._note(odd, table, "", NO_ROW, bad)
        no_time = found.wrong | found.missing | np.isinf(found.values)
        no_key = np.array([key is None for key in keys], dtype=bool)
        checks = [(self.windows.time, NO_TIME, no_time), (self.windows.key or "", NO_KEY, no_key)]
        for name, one in parsed.items():
            checks.append((name, row_faults.NOT_A_NUMBER, one.wrong))
            checks.append((name, row_faults.NOT_FINITE, np.isinf(one.values)))
        for name, reason, wrong in checks:
            self._note(odd, table, name, reason, wrong & ~bad)
            bad = bad | wrong
        others = {
            f"other.{name}": _plain(values.column_of(table, name), name in self.texts)
            for name in self.others
        }
        numbers = {f"number.{name}": pa.array(one.values) for name, one in parsed.items()}
        ids = pa.array(values.row_ids(table))
        made = {values.ROW_ID: ids, "time": pa.array(found.values), "key": pa.array(keys)}
        made["key"] = made["key"].cast(pa.string())
        return pa.table({**made, **numbers, **others}).filter(pa.array(~bad))

    def _keys(self, table: pa.Table) -> list[str | None]:
        if self.windows.key is None:
            return [""] * table.num_rows
        return values.to_texts(values.column_of(table, self.windows.key))

    def _note(self, odd: Oddities, table: pa.Table, name: str, reason: str, wrong: Mask) -> None:
        places = np.flatnonzero(wrong)
        if not len(places):
            return
        ids = values.row_ids(table)[places]
        cell = values.column_of(table, name)[int(places[int(np.argmin(ids))])].as_py()
        what = f"{name}: {reason}" if name else reason
        told = f"{name}: {shown(cell)} {reason}" if name else reason
        odd.note("row", what, ids, [told])

    def _series_of(self, table: pa.Table, ids: Ids) -> npt.NDArray[np.int64]:
        """Numbers of the series, in the order of keys; parts of the source have separate ones."""
        keys = np.array(table.column("key").to_pylist(), dtype=str)
        _, codes = np.unique(keys, return_inverse=True)
        of_part = np.searchsorted(np.array(self.part_starts, dtype=np.int64), ids, side="right")
        # A source has at most three official parts.
        joined: npt.NDArray[np.int64] = codes.astype(np.int64) * 4 + of_part
        return joined

    def _without_repeats(self, rows: SeriesRows, odd: Oddities) -> SeriesRows:
        same = (rows.series[1:] == rows.series[:-1]) & (rows.times[1:] == rows.times[:-1])
        if not same.any():
            return rows
        is_later = np.concatenate([[False], same])
        time = self.windows.time
        odd.note("repeat", f"{time}: {REPEATED}", rows.ids[is_later], [f"{time}: {REPEATED}"])
        is_earlier = np.concatenate([same, [False]])
        return rows.take(~(is_earlier if self.windows.repeats == "last" else is_later))

    def _with_breaks(self, rows: SeriesRows, odd: Oddities) -> SeriesRows:
        """Marks the first rows of series and those behind a gap."""
        breaks = np.ones(len(rows), dtype=bool)
        breaks[1:] = rows.series[1:] != rows.series[:-1]
        if self.windows.gaps != "ignore":
            steps = np.diff(rows.times)
            for start, stop in _stretches(breaks):
                inner = steps[start : stop - 1]
                if not len(inner):
                    continue
                # Distance of two floats: seconds since 1970 are known to 0.2 microseconds only.
                grain = float(np.spacing(np.abs(rows.times[start:stop]).max()))
                step = self.windows.step or _most_frequent(inner, grain)
                wrong = np.flatnonzero(
                    np.abs(inner - step) > max(_STEP_TOLERANCE * step, 2 * grain)
                )
                ids = rows.ids[start + 1 + wrong]
                time = self.windows.time
                told = [
                    f"{time}: {inner[place]:g} after the row before it, but the step of this "
                    f"series is {step:g}"
                    for place in wrong.tolist()
                ]
                odd.note("gap", f"{time}: not one step after the row before it", ids, told)
                breaks[start + 1 + wrong] = True
        return replace(rows, breaks=breaks)


def _stretches(starts: Mask) -> Iterator[tuple[int, int]]:
    """Yields start and stop of each stretch of rows, given where stretches start."""
    places = [*np.flatnonzero(starts).tolist(), len(starts)]
    yield from itertools.pairwise(places)


def _most_frequent(steps: Floats, grain: float) -> float:
    # Rounded, so that steps that differ only by rounding are counted together. Of several equally
    # frequent steps, the shortest is taken.
    unit = max(_STEP_TOLERANCE * float(np.median(steps)), 4 * grain)
    _, places, counts = np.unique(np.round(steps / unit), return_inverse=True, return_counts=True)
    return float(np.median(steps[places == np.argmax(counts)]))


def _part_of(key: str | None, num_parts: int) -> int:
    if num_parts == 1:
        return 0
    digest = hashlib.blake2b((key or "").encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % num_parts


def _plain(column: pa.Array, is_text: bool) -> pa.Array:
    if column.type == values.IMAGE or list_values.is_list(column.type):
        return column
    # Blocks differ in types: what is a number in one file may be a text in another.
    texts = values.to_strings(column) if is_text else values.to_texts(column)
    return pa.array(texts, pa.string())
