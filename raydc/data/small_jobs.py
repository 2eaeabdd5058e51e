"""Which jobs are so small that the driver is done before tasks of Ray would have started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from raydc.data import joins, sources
from raydc.data.layout import Layout
from raydc.errors import UsageError
from raydc.spec.data import Data

# One CPU handles about a megabyte of rows in the time of a stage of Ray Data, of which a
# preparation has five and more, and the first of them takes seconds.
_SMALL_MB = 8.0
SMALL_VARIABLE = "RAYDC_SMALL_MB"
# Opening files takes longer than reading small ones.
_MAX_FILES = 512
# Compressed rows are about this much larger in memory. `tasks.read_blocks` sees the rest.
_EXPANSION = 4
_COMPRESSED = (".gz", ".bz2", ".zst", ".xz", ".npz", ".tgz")


def is_small(layout: Layout, data: Data) -> bool:
    """Whether a source is so small that one process handles it sooner than tasks would start.

    Args:
        layout: Files of the source.
        data: Its section `data`, whose joined tables count too.

    Raises:
        DataError: A joined table is not there.
        UsageError: `RAYDC_SMALL_MB` is not a number.
    """
    limit = small_bytes()
    layouts = [layout]
    if _num_bytes(layouts) <= limit:
        layouts += [sources.locate(joins.data_of(join, data)) for join in data.joins]
    return _num_bytes(layouts) <= limit and sum(len(each.files) for each in layouts) <= _MAX_FILES


def small_bytes() -> float:
    """Bytes of files up to which this process does the work itself; see `RAYDC_SMALL_MB`.

    Raises:
        UsageError: The variable is not a number from 0 on.
    """
    given = os.environ.get(SMALL_VARIABLE)
    with contextlib.suppress(ValueError):
        megabytes = _SMALL_MB if given is None else float(given)
        # Not a number fails, too.
        if megabytes >= 0:
            return 1e6 * megabytes
    raise UsageError(
        f"the environment variable {SMALL_VARIABLE} is {given!r}, which is not a number from 0 on",
        "Give megabytes, such as 8, or 0 to use Ray for all data.",
    )


def _num_bytes(layouts: Iterable[Layout]) -> int:
    return sum(
        file.num_bytes * (_EXPANSION if _is_compressed(layout, file.path) else 1)
        for layout in layouts
        for file in layout.files
    )


def _is_compressed(layout: Layout, path: str) -> bool:
    is_packed = layout.format in ("parquet", "image_folder", "tar")
    return is_packed or path.lower().endswith(_COMPRESSED)
