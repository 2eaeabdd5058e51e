"""Parquet files as tables of raw rows. Runs in tasks of Ray Data, footers in the driver."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raydc.data import csv_rows, file_kind, text_formats, values
from raydc.data.layout import SourceFile

# Limits of a table that has more rows than `text_formats.ROWS_PER_TABLE`. Beyond them its columns
# leave the caches of a CPU, and larger tables save nothing.
_MAX_TABLE_ROWS = 65_536
_TABLE_BYTES = 16 * 1024 * 1024
_TABLE_CELLS = 2 * 1024 * 1024


@contextmanager
def open_file(filesystem: pafs.FileSystem, path: str) -> Iterator[pq.ParquetFile]:
    """Opens a file and names it in every error.

    Args:
        filesystem: Filesystem that holds the file.
        path: Path on that filesystem, which messages name.

    Raises:
        DataError: The file cannot be read.
    """
    with (
        file_kind.name_faults(filesystem, path, "parquet"),
        filesystem.open_input_file(path) as stream,
    ):
        yield pq.ParquetFile(stream)


def own_names(schema: pa.Schema) -> list[str]:
    """Columns of a file, without the ids that raydc itself has put into it."""
    is_keyed = values.KEYED.encode() in (schema.metadata or {})
    return [name for name in schema.names if not (is_keyed and name == values.ROW_ID)]


def group_starts(parquet: pq.ParquetFile) -> list[int]:
    """Number of the first row of each row group: the footer knows the rows of each."""
    groups = range(parquet.num_row_groups)
    sizes = [parquet.metadata.row_group(group).num_rows for group in groups]
    return list(itertools.accumulate(sizes, initial=0))[:-1]


def _rows_per_table(group: pq.RowGroupMetaData) -> int:
    """Rows of a table: many of a narrow table, because each column of each table has a cost."""
    bytes_per_row = group.total_byte_size / max(1, group.num_rows)
    by_bytes = int(_TABLE_BYTES / max(1.0, bytes_per_row))
    wanted: int = min(_MAX_TABLE_ROWS, by_bytes, _TABLE_CELLS // max(1, group.num_columns))
    return max(text_formats.ROWS_PER_TABLE, wanted)


def read_group(
    filesystem: pafs.FileSystem, file: SourceFile, group: int, first: int, keeps_faulty: bool
) -> Iterator[tuple[pa.Table, int]]:
    """Yields the rows of a row group, with the number of the first row of each table.

    Args:
        filesystem: Filesystem that holds the file.
        file: A file of the source; messages name it.
        group: Index of the row group.
        first: Number of its first row in the file, from 0.
        keeps_faulty: Whether a row with a cell that is not text gets a fault instead of an error.

    Raises:
        DataError: The file cannot be read, or a cell is not text and `keeps_faulty` is false.
    """
    with open_file(filesystem, file.path) as parquet:
        num_rows = _rows_per_table(parquet.metadata.row_group(group))
        for batch in parquet.iter_batches(num_rows, row_groups=[group], use_threads=False):
            table = pa.Table.from_batches([batch])
            yield csv_rows.valid_texts(file.path, table, first, keeps_faulty), first
            first += table.num_rows
