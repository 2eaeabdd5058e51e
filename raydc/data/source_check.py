"""What can be refused about a source before anything is read but names. Runs in the driver.

Reads no rows and starts no Ray: files are listed, and the header of the first one is looked at.
"""

from __future__ import annotations

from raydc.data import partitions, sources
from raydc.data.readers import Reader
from raydc.errors import DataError, did_you_mean
from raydc.spec.data import Data, IdxFiles, Sources


def check_source(data: Data) -> None:
    """Refuses a source on this machine that is not there, or that lacks a column of the spec.

    Object stores are left to the preparation, whose nodes have their own access to them.

    Args:
        data: Section `data` of a resolved spec, with absolute paths.

    Raises:
        DataError: There are no files, their format is not known, or a column is not there.
    """
    if not all(_is_here(path) for path in _paths(data)):
        return
    layout = sources.locate(data)
    header = Reader.for_layout(layout, data).header
    if header is None:
        return
    inside = data.partitioning != "ignore"
    names = [*header, *(partitions.columns_of(layout.files[0]) if inside else ())]
    wanted = [
        ("data.target", data.target),
        *(("data.features.columns", name) for name in data.features.columns),
        *(("data.features.exclude", name) for name in data.features.exclude),
    ]
    for path, name in wanted:
        if name not in names:
            advice = did_you_mean(name, names, starts_sentence=True)
            raise DataError(
                f"{path}: there is no column {name!r} in {layout.files[0].path}",
                f"{advice} There are {', '.join(names)}.".lstrip(),
            )


def _paths(data: Data) -> list[str]:
    given = data.source
    parts = [given.train, given.test] if isinstance(given, Sources) else [given]
    return [
        path
        for part in parts
        for path in ([part.images, part.labels] if isinstance(part, IdxFiles) else [part])
    ]


def _is_here(path: str) -> bool:
    return "://" not in path or path.startswith("file://")
