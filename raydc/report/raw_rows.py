"""Raw values of some held-out rows, read from the sources again. Runs in the driver, without Ray.

Shards hold what the network takes; people want to see the row as it is in its file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydc.data import sources, values
from raydc.data.layout import Layout
from raydc.data.readers import Reader
from raydc.errors import RaydcError
from raydc.order import Ids
from raydc.spec.resolved import ResolvedData


@dataclass(frozen=True)
class RawRows:
    """Some raw rows.

    Attributes:
        layout: Files of the source, which tell the place of a row; None if they are gone.
        table: Rows that were found, in the order of their ids; None if there are none.
        reason: Why rows are missing; None if all were found.
    """

    layout: Layout | None
    table: pa.Table | None
    reason: str | None = None

    @property
    def ids(self) -> Ids:
        """Ids of the rows that were found, int64."""
        if self.table is None:
            return np.empty(0, dtype=np.int64)
        return values.row_ids(self.table)

    def place(self, row_id: int) -> str:
        """File and number of a row, for a person; its id if the files are gone."""
        if self.layout is None:
            return f"row {row_id}"
        try:
            return self.layout.describe_row(row_id)
        except IndexError:
            return f"row {row_id}"

    def column(self, name: str) -> list[Any]:
        """Values of a column as `Features.apply` takes them."""
        assert self.table is not None
        found: list[Any] = values.column_of(self.table, name).to_pylist()
        return found


def read(data: ResolvedData, ids: Ids, until_s: float, with_values: bool) -> RawRows:
    """Looks rows up in the sources of a spec.

    Args:
        data: Section `data` of the spec, which says how the sources are read.
        ids: Ids of the rows to find.
        until_s: Time of the monotonic clock at which to stop reading.
        with_values: Whether to read the rows; False only lists the files, for their places.
    """
    try:
        layout = sources.locate(data)
        if not with_values:
            return RawRows(layout, None)
        found = list(_matching(layout, data, ids, until_s))
    except RaydcError as error:
        return RawRows(None, None, error.message)
    if not found:
        return RawRows(layout, None, "they were not found in the sources within the time limit")
    table = pa.concat_tables(found, promote_options="permissive").sort_by(values.ROW_ID)
    missing = len(ids) - table.num_rows
    reason = f"{missing:,} of them were not found within the time limit" if missing else None
    return RawRows(layout, table, reason)


def _matching(layout: Layout, data: ResolvedData, ids: Ids, until_s: float) -> Iterator[pa.Table]:
    num_left = len(ids)
    for piece in Reader.for_layout(layout, data).pieces(layout.files):
        for table in piece():
            part = table.filter(pa.array(np.isin(values.row_ids(table), ids)))
            num_left -= part.num_rows
            if part.num_rows:
                yield part
            if num_left <= 0 or time.monotonic() > until_s:
                return
