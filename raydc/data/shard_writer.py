"""Cuts blocks of raw rows into shards and writes them. Planned in the driver, written in tasks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import manifest, values
from raydc.data.clean import Cleaner
from raydc.data.shards import SPLITS, shard_bytes, shard_name
from raydc.features import Features
from raydc.features.images import encode_png
from raydc.storage import Storage

# Enough to tell a model from one that is nearly the same: see raydc.bundle.optimize.
NUM_GOLDEN_ROWS = 32


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be written.

    Attributes:
        split: Index into `shards.SPLITS`.
        index: Index of the shard in its split.
        pieces: (block, start, stop) each, counted in those rows of the block that are of the split.
    """

    split: int
    index: int
    pieces: tuple[tuple[int, int, int], ...]

    @property
    def name(self) -> str:
        """File name of the shard."""
        return shard_name(SPLITS[self.split], self.index)


def plan_shards(num_rows: Sequence[Sequence[int]], rows_per_shard: int) -> list[PlannedShard]:
    """Cuts the rows of every split, in the order of the blocks, into shards of equal size.

    Args:
        num_rows: Rows of each split in each block, [blocks][splits].
        rows_per_shard: Rows of every shard but the last of a split.

    Returns:
        The shards of the first split in their order, then those of the next.
    """
    plan = []
    for split in range(len(SPLITS)):
        ends = list(itertools.accumulate((block[split] for block in num_rows), initial=0))
        for index, start in enumerate(range(0, ends[-1], rows_per_shard)):
            stop = min(start + rows_per_shard, ends[-1])
            # Blocks that overlap [start, stop), with the part of each that lies in it.
            pieces = [
                (block, max(start, first) - first, min(stop, last) - first)
                for block, (first, last) in enumerate(itertools.pairwise(ends))
                if first < stop and last > start
            ]
            plan.append(PlannedShard(split, index, tuple(pieces)))
    return plan


def take_rows(shard: PlannedShard, blocks: Sequence[pa.Table], cleaner: Cleaner) -> pa.Table:
    """Collects the raw rows of a shard.

    Args:
        shard: Planned shard, with the rows that each of its pieces takes.
        blocks: Blocks of its pieces, in the order of the pieces.
        cleaner: Assigns rows to splits, as it did when the shard was planned.
    """
    parts = []
    for table, (_, start, stop) in zip(blocks, shard.pieces, strict=True):
        where = np.flatnonzero(cleaner.assign_splits(table) == shard.split)[start:stop]
        parts.append(_of_decided_kinds(table.take(pa.array(where)), cleaner))
    return pa.concat_tables(parts)


def _of_decided_kinds(rows: pa.Table, cleaner: Cleaner) -> pa.Table:
    """Brings rows to types that all blocks share, whatever types their files have."""
    target_kind = "numeric" if cleaner.data.task == "regression" else "categorical"
    columns: dict[str, Any] = {values.ROW_ID: rows.column(values.ROW_ID)}
    for name, kind in {**cleaner.kinds, cleaner.data.target: target_kind}.items():
        # A block of JSON Lines lacks a column that no line of it has, which is then all null.
        column = values.column_of(rows, name)
        if kind == "numeric":
            parsed = values.parse_numbers(column)
            column = pa.array(parsed.values, mask=parsed.missing)
        elif kind == "categorical":
            column = pa.array(values.to_texts(column), pa.string())
        elif column.type != values.IMAGE:
            column = pa.nulls(rows.num_rows, values.IMAGE)
        columns[name] = column
    return pa.table(columns)


def raw_columns(rows: pa.Table, cleaner: Cleaner, num_rows: int | None = None) -> dict[str, Any]:
    """Input columns as `Features.apply` takes them.

    Args:
        rows: Raw rows, of any split.
        cleaner: Holds the kind of each column, which decides the type of its values.
        num_rows: Number of first rows to take; None takes all.
    """
    part = rows if num_rows is None else rows.slice(0, num_rows)
    return {
        name: _raw_values(values.column_of(part, name), kind)
        for name, kind in cleaner.kinds.items()
    }


def _raw_values(column: pa.Array, kind: str) -> Any:
    if kind == "categorical":
        return values.to_texts(column)
    if kind == "numeric":
        return values.parse_numbers(column).values
    images = values.to_images(column)
    shapes = {image.shape for image in images}
    # Grey and colour images of one data set stay a list: `Image.apply` brings them to one shape.
    return np.stack(images) if len(shapes) == 1 else images


def raw_target(rows: pa.Table, cleaner: Cleaner) -> Any:
    """The target as `Features.apply_target` takes it."""
    kind = "numeric" if cleaner.data.task == "regression" else "categorical"
    return _raw_values(values.column_of(rows, cleaner.data.target), kind)


def write_shard(
    rows: pa.Table, name: str, folder: Storage, features: Features, cleaner: Cleaner
) -> dict[str, Any]:
    """Applies the features and writes one shard.

    Args:
        rows: Raw rows of the shard, in the order of their ids.
        name: File name of the shard.
        folder: Folder of the new data set.
        features: Fitted features, which turn raw rows into the arrays of the shard.
        cleaner: Holds the kind of each column, which decides the type of its values.

    Returns:
        The entry of the file in the manifest.
    """
    x = features.apply(raw_columns(rows, cleaner))
    y = features.apply_target(raw_target(rows, cleaner))
    content = shard_bytes(x, y, values.row_ids(rows)).to_pybytes()
    return manifest.write_file(folder, name, content)


def golden_rows(rows: pa.Table, cleaner: Cleaner) -> list[dict[str, Any]]:
    """The first rows as JSON values, as a client would send them; missing values are left out."""
    columns = raw_columns(rows, cleaner, NUM_GOLDEN_ROWS)
    count = min(NUM_GOLDEN_ROWS, rows.num_rows)
    listed = [
        {name: _json_value(cells[row]) for name, cells in columns.items()} for row in range(count)
    ]
    return [{name: value for name, value in row.items() if value is not None} for row in listed]


def _json_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return encode_png(_to_pixels(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        # 5 instead of 5.0, as a person would write it.
        return None if np.isnan(number) else int(number) if number.is_integer() else number
    return value


def _to_pixels(value: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(value, dtype=np.uint8)
