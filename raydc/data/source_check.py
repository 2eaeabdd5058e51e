"""What can be refused about a source before anything is read but names. Runs in the driver.

Reads no rows and starts no Ray: files are listed, and the header of the first one is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from raydc.data import joins, partitions, sources
from raydc.data.readers import Reader
from raydc.data.text_shapes import with_edges
from raydc.errors import DataError, did_you_mean
from raydc.spec.data import Data, IdxFiles, Sources
from raydc.spec.row_sources import RowSource


def check_source(data: Data) -> None:
    """Refuses a source on this machine that is not there, or that lacks a column of the spec.

    Object stores are left to the preparation, whose nodes have their own access to them.

    Args:
        data: Section `data` of a resolved spec, with absolute paths.

    Raises:
        DataError: There are no files, their format is not known, or a column is not there.
    """
    given = data.source
    parts = [given.train, given.test] if isinstance(given, Sources) else [given]
    # A query or a function is left to the preparation as well.
    if any(isinstance(part, RowSource) for part in parts):
        return
    if not all(_is_here(path) for path in _paths(data)):
        return
    layout = sources.locate(data)
    header = Reader.for_layout(layout, data).header
    if header is None:
        return
    inside = data.partitioning != "ignore"
    names = [*header, *(partitions.columns_of(layout.files[0]) if inside else ())]
    for join in data.joins:
        table = joins.data_of(join, data)
        joined = Reader.for_layout(sources.locate(table), table).header
        if joined is None:
            return
        added = join.columns or [name for name in joined if name != join.key]
        names += [f"{join.prefix}{name}" for name in added]
    wanted = [
        *(("data.label_columns", name) for name in data.label_columns or ()),
        *([] if data.label_columns else [("data.target", data.target)]),
        *([("data.query", data.query)] if data.query is not None else []),
        *_series_columns(data),
        *(("data.features.columns", name) for name in data.features.columns),
        *(("data.features.exclude", name) for name in data.features.exclude),
    ]
    for path, name in wanted:
        if name not in names:
            advice = did_you_mean(name, names, starts_sentence=True)
            raise DataError(
                f"{path}: there is no column {name!r} in {layout.files[0].path}",
                f"{advice} There are {', '.join(map(with_edges, names))}.".lstrip(),
            )


def _series_columns(data: Data) -> Iterator[tuple[str, str]]:
    """Yields field and column of each column that windows need."""
    windows = data.windows
    if windows is None:
        return
    yield "data.windows.time", windows.time
    if windows.key is not None:
        yield "data.windows.key", windows.key
    for name in windows.columns or ():
        yield "data.windows.columns", name


def _paths(data: Data) -> list[str]:
    given = data.source
    parts = [given.train, given.test] if isinstance(given, Sources) else [given]
    paths = [
        path
        for part in parts
        for path in ([part.images, part.labels] if isinstance(part, IdxFiles) else [part])
        if isinstance(path, str)
    ]
    return [*paths, *(join.path for join in data.joins)]


def _is_here(path: str) -> bool:
    return "://" not in path or path.startswith("file://")
