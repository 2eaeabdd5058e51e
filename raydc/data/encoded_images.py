"""Images that stay files in the shards and are decoded where rows are read.

Chosen in the driver, written in tasks of Ray Data; `file_decoder` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydc.data.column_statistics import RowStatistics
from raydc.data.column_sums import PixelHistogram
from raydc.features import Features, Image, Inputs, Ragged, Record

# Pixels of a data set up to this size stay in the memory of a machine, where reading them is much
# cheaper than decoding the files again in each epoch.
_SMALL_SET_BYTES = 1024**3


def choose_columns(
    storage: Literal["auto", "encoded", "decoded"], features: Features, total: RowStatistics
) -> dict[str, int]:
    """Chooses the columns of images that are stored as files.

    Args:
        storage: `data.image_storage`. With `auto`, files are stored if the pixels of all rows would
            take more than 1 GiB and the files take less.
        features: Fitted features, which know the size of an image in pixels.
        total: Statistics of all rows that are kept.

    Returns:
        Mean bytes of a file by column, without the columns that stay pixels.
    """
    chosen: dict[str, int] = {}
    for name, column in features.columns.items():
        found = total.inputs.get(name)
        if not isinstance(column, Image) or not isinstance(found, PixelHistogram):
            continue
        if storage == "decoded" or not found.num_files or found.num_files < found.num_images:
            continue
        mean_bytes = -(-found.file_bytes // found.num_files)
        pixel_bytes = column.height * column.width * column.channels
        is_large = pixel_bytes * sum(total.num_rows) > _SMALL_SET_BYTES
        if storage == "encoded" or (is_large and mean_bytes < pixel_bytes):
            chosen[name] = mean_bytes
    return chosen


def with_files(x: Inputs, rows: pa.Table, names: Sequence[str]) -> Inputs:
    """Replaces the pixels of some columns by their files.

    Args:
        x: Inputs of the rows, with pixels.
        rows: Raw rows in the same order, which hold the files.
        names: Columns of images that are stored as files.
    """
    if not names:
        return x
    fields: dict[str, Any] = dict(x.fields) if isinstance(x, Record) else {}
    for name in names:
        files = [np.frombuffer(file, np.uint8) for file in _files_of(rows.column(name))]
        fields[name] = Ragged.of_lists(files, np.empty(0, np.uint8))
    return Record(fields, x.layout if isinstance(x, Record) else None)


def _files_of(column: pa.ChunkedArray) -> list[bytes]:
    """Files of the images of a column, each of which has one."""
    return [file for chunk in column.chunks for file in chunk.field("file").to_pylist()]
