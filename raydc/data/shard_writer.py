"""Applies the features to the raw rows of a shard and writes it. In tasks of Ray Data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import (
    label_sets,
    list_values,
    manifest,
    row_places,
    values,
    window_cut,
    window_fit,
)
from raydc.data.clean import Cleaner
from raydc.data.encoded_images import with_files
from raydc.data.file_decoder import probe_of
from raydc.data.shard_file import shard_bytes
from raydc.data.shard_plan import PlannedShard
from raydc.errors import DataError, os_error_hint
from raydc.features import Features, Inputs
from raydc.features.images import encode_png
from raydc.features.record import join_rows
from raydc.order import Ids
from raydc.spec.windows import WINDOW
from raydc.storage import Storage

# Enough to tell a model from one that is nearly the same: see raydc.bundle.optimize.
NUM_GOLDEN_ROWS = 32


def take_rows(shard: PlannedShard, blocks: Sequence[pa.Table], cleaner: Cleaner) -> pa.Table:
    """Collects the raw rows of a shard.

    Args:
        shard: Planned shard, with the rows that each of its pieces takes.
        blocks: Blocks of its pieces, in the order of the pieces.
        cleaner: Assigns rows to splits, as it did when the shard was planned.
    """
    parts = list(take_parts(shard, blocks, cleaner))
    # A block that has no list at all does not know the type of the others.
    return pa.concat_tables(list_values.with_one_type(parts), promote_options="default")


def take_parts(
    shard: PlannedShard, blocks: Iterable[pa.Table], cleaner: Cleaner
) -> Iterator[pa.Table]:
    """Yields the raw rows of a shard, those of one block at a time; arguments as of `take_rows`."""
    for table, (_, start, stop) in zip(blocks, shard.pieces, strict=True):
        where = np.flatnonzero(cleaner.assign_splits(table) == shard.split)[start:stop]
        yield _of_decided_kinds(table.take(pa.array(where)), cleaner)


def _of_decided_kinds(rows: pa.Table, cleaner: Cleaner) -> pa.Table:
    """Brings rows to types that all blocks share, whatever types their files have."""
    target_kind = "numeric" if cleaner.data.task == "regression" else "categorical"
    columns: dict[str, Any] = {values.ROW_ID: rows.column(values.ROW_ID)}
    if cleaner.data.query is not None:
        columns[values.QUERY] = query_numbers(values.column_of(rows, cleaner.data.query))
    for name, kind in {**cleaner.kinds, cleaner.data.target: target_kind}.items():
        # A block of JSON Lines lacks a column that no line of it has, which is then all null.
        column = values.column_of(rows, name)
        if kind == "numeric":
            column = _number_column(column)
        elif kind == "categorical":
            column = values.text_column(column)
        elif kind == "text":
            column = pa.array(values.to_strings(column), pa.string())
        elif kind == "list":
            is_list = list_values.is_list(column.type)
            column = column if is_list else pa.nulls(rows.num_rows)
        elif column.type != values.IMAGE:
            column = pa.nulls(rows.num_rows, values.IMAGE)
        columns[name] = column
    for name in (values.WINDOW, values.TARGETS) if cleaner.data.windows is not None else ():
        columns[name] = rows.column(name)
    return pa.table(columns)


def _number_column(column: pa.Array) -> pa.Array:
    parsed = values.parse_numbers(column)
    if column.type == pa.float64() and not column.null_count and not parsed.missing.any():
        return column
    return pa.array(parsed.values, mask=parsed.missing)


def raw_columns(rows: pa.Table, cleaner: Cleaner, num_rows: int | None = None) -> dict[str, Any]:
    """Input columns as `Features.apply` takes them.

    Args:
        rows: Raw rows, of any split.
        cleaner: Holds the kind of each column, which decides the type of its values.
        num_rows: Number of first rows to take; None takes all.
    """
    part = rows if num_rows is None else rows.slice(0, num_rows)
    is_window = cleaner.data.windows is not None
    return {
        **({WINDOW: window_fit.past_of(part, cleaner.data)} if is_window else {}),
        **{
            name: _raw_values(values.column_of(part, name), kind)
            for name, kind in cleaner.kinds.items()
        },
    }


def _raw_values(column: pa.Array, kind: str) -> Any:
    if kind == "categorical":
        return values.coded_texts(column)
    if kind == "text":
        return values.to_strings(column)
    if kind == "numeric":
        return values.parse_numbers(column).values
    if kind == "list":
        is_list = list_values.is_list(column.type)
        return list_values.to_arrays(column) if is_list else [None] * len(column)
    images = values.to_images(column)
    shapes = {image.shape for image in images}
    # Grey and colour images of one data set stay a list: `Image.apply` brings them to one shape.
    return np.stack(images) if len(shapes) == 1 else images


def raw_target(rows: pa.Table, cleaner: Cleaner) -> Any:
    """The target as `Features.apply_target` takes it."""
    windows = cleaner.data.windows
    if windows is not None and windows.horizon > 1:
        return window_cut.numbers_of(rows, values.TARGETS, (windows.horizon,))
    kind = "numeric" if cleaner.data.task == "regression" else "categorical"
    found = _raw_values(values.column_of(rows, cleaner.data.target), kind)
    return label_sets.parse_all(found) if cleaner.data.task == "multilabel" else found


def query_numbers(column: pa.Array) -> npt.NDArray[np.int64]:
    """A number for the group of each row, which depends on the text of its value only."""

    def number_of(text: str | None) -> int:
        # A row without a group is dropped or refused before.
        digest = hashlib.blake2b((text or "").encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    return values.coded_texts(column).map(number_of, np.int64)


@dataclass(frozen=True)
class ShardRows:
    """Rows as a shard stores them.

    Attributes:
        x: Inputs; images that are stored as files are files.
        y_B: Targets.
        ids_B: int64 [B], row ids.
        queries_B: int64 [B], number of the group of each row, or None without groups.
    """

    x: Inputs
    y_B: Any
    ids_B: Ids
    queries_B: npt.NDArray[np.int64] | None

    @classmethod
    def join(cls, parts: Sequence[ShardRows]) -> ShardRows:
        """The rows of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        queries = [part.queries_B for part in parts if part.queries_B is not None]
        return cls(
            join_rows([part.x for part in parts]),
            np.concatenate([part.y_B for part in parts]),
            np.concatenate([part.ids_B for part in parts]),
            np.concatenate(queries) if queries else None,
        )


def apply_features(
    rows: pa.Table, features: Features, cleaner: Cleaner, file_columns: Sequence[str] = ()
) -> ShardRows:
    """Applies the features to raw rows of a shard.

    Args:
        rows: Raw rows, in the order of their ids.
        features: Fitted features, which turn raw rows into the arrays of the shard.
        cleaner: Holds the kind of each column, which decides the type of its values.
        file_columns: Columns of images that are stored as files.
    """
    ids_B = values.row_ids(rows)
    with row_places.with_ids(ids_B):
        x = features.apply_stored(raw_columns(rows, cleaner))
        y_B = features.apply_target(raw_target(rows, cleaner))
    queries_B = None
    if values.QUERY in rows.column_names:
        queries_B = np.asarray(rows.column(values.QUERY).to_numpy())
    return ShardRows(with_files(x, rows, file_columns), y_B, ids_B, queries_B)


def write_shard(
    rows: ShardRows,
    name: str,
    folder: Storage,
    features: Features,
    file_columns: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes one shard.

    Args:
        rows: Rows of the shard, in the order of their ids.
        name: File name of the shard.
        folder: Folder of the new data set.
        features: Fitted features, which decode the images that are stored as files.
        file_columns: Columns of such images.

    Returns:
        The entry of the file in the manifest; with files, also `images`, see `probe_of`.

    Raises:
        DataError: The storage cannot be written.
    """
    content = shard_bytes(rows.x, rows.y_B, rows.ids_B, rows.queries_B).to_pybytes()
    try:
        entry = manifest.write_file(folder, name, content)
    except OSError as error:
        hint = os_error_hint(error) or "Does every node reach it?"
        raise DataError(f"storage {folder.uri} cannot be written: {error}", hint) from error
    return {**entry, "images": probe_of(rows.x, features, file_columns)} if file_columns else entry


def golden_rows(rows: pa.Table, cleaner: Cleaner) -> list[dict[str, Any]]:
    """The first rows as JSON values, as a client would send them; missing values are left out."""
    columns = raw_columns(rows, cleaner, NUM_GOLDEN_ROWS)
    count = min(NUM_GOLDEN_ROWS, rows.num_rows)
    # A window of a series is made of several columns, and has no kind of its own.
    kinds = cleaner.kinds
    listed = [
        {name: _json_value(cells[row], kinds.get(name, "")) for name, cells in columns.items()}
        for row in range(count)
    ]
    return [{name: value for name, value in row.items() if value is not None} for row in listed]


def _json_value(value: Any, kind: str) -> Any:
    if kind == "list":
        return None if value is None else value.tolist()
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        # Past steps of a series; of one column plain numbers.
        steps = value[:, 0] if value.shape[1] == 1 else value
        return _plain_numbers(steps.tolist())
    if isinstance(value, np.ndarray):
        return encode_png(_to_pixels(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        # 5 instead of 5.0, as a person would write it.
        return None if np.isnan(number) else int(number) if number.is_integer() else number
    return value


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_numbers(one) for one in value]
    return int(value) if value.is_integer() else value


def _to_pixels(value: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(value, dtype=np.uint8)
