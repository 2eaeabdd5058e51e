"""How many rows of a row group become one table: many of a narrow one, few of a wide one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from raydc.data import parquet_format
from raydc.data.layout import SourceFile
from raydc.data.text_formats import ROWS_PER_TABLE

NUM_ROWS = 70_000


@pytest.mark.parametrize(
    ("num_columns", "characters", "most_rows"),
    [
        (2, 1, 65_536),
        # 2**21 cells.
        (100, 1, 20_971),
        (200, 1, ROWS_PER_TABLE),
        # 16 MiB of texts that no dictionary makes smaller.
        (1, 1100, ROWS_PER_TABLE),
    ],
)
def test_rows_of_a_table_depend_on_how_wide_it_is(
    tmp_path: Path, num_columns: int, characters: int, most_rows: int
) -> None:
    numbers = pa.array(np.arange(NUM_ROWS) % 2)
    wide = pa.array([f"{row:0{characters}d}" for row in range(NUM_ROWS)])
    column = wide if characters > 1 else numbers
    path = str(tmp_path / "table.parquet")
    table = pa.table({f"c{index}": column for index in range(num_columns)})
    pq.write_table(table, path, row_group_size=NUM_ROWS)
    file = SourceFile("table.parquet", path, NUM_ROWS, "train")
    found = list(parquet_format.read_group(pafs.LocalFileSystem(), file, 0, 0, False))
    assert max(part.num_rows for part, _ in found) == most_rows
    starts = np.cumsum([0, *(part.num_rows for part, _ in found)])
    assert [first for _, first in found] == starts[:-1].tolist()
    assert pa.concat_tables(part for part, _ in found).equals(table)
