"""Tables that are joined to the rows as they are read. Loaded once in each process that reads.

A row's id stays its place in the source, so that neither the order of a joined table nor the cut
into blocks changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.errors import DataError, did_you_mean, first_line
from raydc.spec.data import Data
from raydc.spec.joined_table import JoinedTable

MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class JoinSource:
    """A joined table that may not be loaded yet; it is pickled with every piece of the rows.

    Attributes:
        join: Section of the spec.
        pieces: Calls that yield its rows.
        describe: Names a row by its id, for messages.
    """

    join: JoinedTable
    pieces: tuple[Callable[[], Iterable[pa.Table]], ...]
    describe: Callable[[int], str]


@dataclass(frozen=True)
class Joins:
    """All tables that are joined to the rows of a source.

    Attributes:
        sources: The tables, in the order of the spec.
        token: Names this reading of them: a later one must not find what changed meanwhile.
    """

    sources: tuple[JoinSource, ...]
    token: str

    def add_to(
        self, path: str, columns: Mapping[str, pa.ChunkedArray], num_rows: int, may_lack_keys: bool
    ) -> dict[str, pa.ChunkedArray]:
        """Adds the columns of all tables to some rows, and `values.UNMATCHED`.

        Args:
            path: File of the rows, for messages.
            columns: Raw cells of the rows, by column.
            num_rows: Number of rows, also where there is no column.
            may_lack_keys: Whether rows without a column of keys have none, or are at fault.

        Raises:
            DataError: A table cannot be joined.
        """
        joined = dict(columns)
        unmatched = np.zeros(num_rows, dtype=np.uint64)
        for number, table in enumerate(_loaded(self)):
            on = table.join.column_of_rows
            if on not in joined and not may_lack_keys:
                advice = did_you_mean(on, joined, starts_sentence=True)
                raise DataError(
                    f"data.joins: there is no column {on!r} in {path}, which is the key of "
                    f"{table.join.path}",
                    f"{advice} There are {', '.join(joined)}.".lstrip(),
                )
            places = table.places(joined.get(on), num_rows)
            unmatched |= (places < 0).astype(np.uint64) << np.uint64(number)
            for name, column in table.take(places).items():
                if name in joined:
                    raise DataError(
                        f"data.joins: {table.join.path} adds a column {name!r}, which {path} has "
                        "already",
                        "Give the join a prefix, or list its columns.",
                    )
                joined[name] = column
        return {**joined, values.UNMATCHED: pa.chunked_array([pa.array(unmatched)])}


@dataclass(frozen=True)
class _Loaded:
    """A table in memory."""

    join: JoinedTable
    table: pa.Table
    place_of_key: Mapping[str, int]

    def places(self, keys: pa.ChunkedArray | None, num_rows: int) -> npt.NDArray[np.int64]:
        """Place of the row with each key; -1 where there is none."""
        if keys is None:
            # No line of this block of JSON Lines has the column.
            return np.full(num_rows, -1, dtype=np.int64)
        find = self.place_of_key.get
        return np.array(
            [-1 if key is None else find(key, -1) for key in key_texts(keys)], dtype=np.int64
        )

    def take(self, places: npt.NDArray[np.int64]) -> dict[str, pa.ChunkedArray]:
        """Columns of these rows by the names that they get; null where there is no row."""
        found = self.table.take(pa.array(places, mask=places < 0))
        return {f"{self.join.prefix}{name}": found.column(name) for name in found.column_names}


def key_texts(column: pa.ChunkedArray) -> list[str | None]:
    """Texts by which keys are compared."""
    # Days and times are compared as they are written, and not as seconds.
    simple = values.simplify(values.dates_as_texts(column))
    return values.to_texts(values.column_of(pa.table({"key": simple}), "key"))


# Tables of the last reading. Ray runs many tasks in one process, which would each read them again.
_CACHE: dict[str, list[_Loaded]] = {}


def _loaded(joins: Joins) -> list[_Loaded]:
    if joins.token not in _CACHE:
        _CACHE.clear()
        _CACHE[joins.token] = [_load(source) for source in joins.sources]
    return _CACHE[joins.token]


def _load(source: JoinSource) -> _Loaded:
    join, parts, num_bytes = source.join, [], 0
    for piece in source.pieces:
        for part in piece():
            parts.append(part)
            num_bytes += part.nbytes
            if num_bytes > MAX_BYTES:
                raise DataError(
                    f"data.joins: {join.path} takes more than {MAX_BYTES:,} bytes of memory",
                    "Join it before: a query (data.source: {sql: ...}) or another tool.",
                )
    try:
        # Blocks of JSON Lines may lack columns that others have.
        table = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise DataError(
            f"data.joins: the files of {join.path} hold different types: {first_line(error)}"
        ) from error
    if not table.num_rows:
        raise DataError(f"data.joins: {join.path}: there are no rows in it")
    names = [name for name in table.column_names if not values.is_internal(name)]
    for name in (join.key, *(join.columns or ())):
        if name not in names:
            advice = did_you_mean(name, names, starts_sentence=True)
            raise DataError(
                f"data.joins: there is no column {name!r} in {join.path}",
                f"{advice} There are {', '.join(names)}.".lstrip(),
            )
    ids = values.row_ids(table).tolist()
    place_of_key: dict[str, int] = {}
    for place, key in enumerate(key_texts(table.column(join.key))):
        # A row without a key belongs to no row of the source.
        if key is not None and place_of_key.setdefault(key, place) != place:
            first, second = source.describe(ids[place_of_key[key]]), source.describe(ids[place])
            raise DataError(
                f"data.joins: {second} has the same {join.key} as {first}: {key!r}",
                "Each row of a joined table needs a key of its own.",
            )
    kept = join.columns or [name for name in names if name != join.key]
    values.refuse_internal(f"data.joins: {join.path}", [f"{join.prefix}{name}" for name in kept])
    return _Loaded(join, table.select(kept), place_of_key)


def data_of(join: JoinedTable, data: Data) -> Data:
    """Section `data` with which a joined table is read: every row and column of it.

    Args:
        join: Section of the spec.
        data: Section `data` of the rows, whose form of CSV files the table has too.
    """
    # Days stay texts where they are compared or counted, as a reader makes texts of categories.
    declared = {
        name.removeprefix(join.prefix): kind
        for name, kind in data.features.columns.items()
        if kind == "categorical" and name.startswith(join.prefix)
    }
    kinds = {**declared, join.key: "categorical"}
    features = data.features.model_copy(update={"exclude": [], "columns": kinds})
    clean = data.clean.model_copy(update={"duplicates": "keep", "on_error": "fail"})
    update: dict[str, Any] = {"source": join.path, "format": "auto", "joins": []}
    # The labels of a row are in the rows themselves.
    update |= {"task": "regression", "label_columns": None}
    return data.model_copy(update={**update, "features": features, "clean": clean})
