"""Rows of queries and functions as files, for one preparation. Runs in the driver.

Such rows are read once: what is hashed and what is prepared are the same rows, even if the database
changes meanwhile. The files lie in the storage, which every node reaches, and are removed at the
end.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydc.data import keyed_rows, row_places, sources, values
from raydc.data.layout import Layout, first_row_id
from raydc.errors import Say, shown
from raydc.spec.data import Sources
from raydc.spec.resolved import ResolvedData
from raydc.spec.row_sources import RowSource
from raydc.storage import Storage

_ROWS_PER_GROUP = 65_536
_FILE = "rows.parquet"


@contextlib.contextmanager
def located(
    data: ResolvedData, store: Storage, report: Say
) -> Iterator[tuple[ResolvedData, Layout]]:
    """Locates a source; rows without a file are written to one, which is removed at the end.

    Args:
        data: Section `data` of a resolved spec.
        store: Folder of the data sets.
        report: Prints a line.

    Yields:
        The section with the files as its source, and their layout. Errors of rows that are raised
        meanwhile get the name of their file, see `row_places`.

    Raises:
        DataError: The source cannot be read.
    """
    given = data.source
    parts = (
        {"train": given.train, "test": given.test} if isinstance(given, Sources) else {"": given}
    )
    keyed = {part: one for part, one in parts.items() if isinstance(one, RowSource)}
    if not keyed:
        layout = sources.locate(data)
        with row_places.with_files(layout):
            yield data, layout
        return
    name = f".rows-{uuid.uuid4().hex[:12]}.tmp"
    try:
        paths: dict[str, Any] = dict(parts)
        for part, source in keyed.items():
            report(f"reading the rows of {keyed_rows.name_of(source)}")
            folder = store / f"{name}/{part or 'rows'}"
            _write(source, folder)
            paths[part] = folder.uri
        files = Sources(**paths) if isinstance(given, Sources) else paths[""]
        named_by = [one.key for one in keyed.values() if one.key is not None]
        keys = [key for key in named_by if key not in data.features.columns]
        exclude = list(dict.fromkeys((*data.features.exclude, *keys)))
        features = data.features.model_copy(update={"exclude": exclude})
        located_data = data.model_copy(
            update={"source": files, "format": "auto", "features": features}
        )
        layout = sources.locate(located_data)
        by_path = {paths[part]: source for part, source in keyed.items()}
        named = replace(layout, describe=_Keys(layout, by_path).describe)
        with row_places.with_files(named):
            yield located_data, named
    finally:
        store.delete(name)


def _write(source: RowSource, folder: Storage) -> None:
    table = keyed_rows.read_rows(source)
    # Tells the reader that the ids are in the file.
    table = table.replace_schema_metadata({values.KEYED: source.key or ""})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=_ROWS_PER_GROUP)
    folder.write_bytes(_FILE, sink.getvalue().to_pybytes())


class _Keys:
    """Names rows by their keys, which it looks up in the files."""

    def __init__(self, layout: Layout, sources_by_path: dict[str, RowSource]) -> None:
        self._layout = layout
        self._sources = sources_by_path

    def describe(self, row_id: int) -> str:
        """Names a row for messages."""
        file = self._layout.file_of(row_id)
        folder = file.path.rpartition("/")[0]
        source = next((one for path, one in self._sources.items() if path.endswith(folder)), None)
        if source is None:
            return file.describe_row(self._layout.format, row_id)
        with self._layout.filesystem.open_input_file(file.path) as stream:
            table = pq.read_table(stream)
        index = self._layout.files.index(file)
        found = pa.compute.index(table.column(values.ROW_ID), row_id - first_row_id(index)).as_py()
        what = keyed_rows.name_of(source)
        if source.key is None:
            row = table.slice(found, 1).drop_columns([values.ROW_ID]).to_pylist()[0]
            return f"{what}: row {shown(row)}"
        return f"{what}: row with {source.key} = {table.column(source.key)[found].as_py()!r}"
