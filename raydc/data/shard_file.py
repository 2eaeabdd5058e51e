"""One shard: an Arrow IPC file of one record batch, so that a memory map of it is arrays.

Written in tasks of Ray Data, read in workers; does not import Ray. The columns `y` (int64 or
float32; a fixed number of values where a row has several targets), `row_id` (int64) and, where rows
are ranked in groups, `query` (int64) stand beside the inputs. Rows that are one array have the
column `x`, a fixed number of bytes or a fixed-size list of float32. Rows of named fields have a
column `x.<field>` each: a fixed-size list or bytes for an array, a large list or large binary for
lists.

Shape suffixes: B rows, N items of all lists, K targets of a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data.mapped_file import MappedFile
from raydc.errors import DataError
from raydc.features import Inputs, Ragged, Record
from raydc.features.table_layout import TableLayout
from raydc.order import Ids

_Array = npt.NDArray[Any]
_FIELD = "x."


def shard_bytes(x: Inputs, y: _Array, row_ids: Ids, queries: Ids | None = None) -> pa.Buffer:
    """Serialises one shard as an Arrow IPC file.

    Args:
        x: uint8 or float32 [B, *shape], rows as the network takes them; or a record.
        y: [B] int64 or float32; [B, K] of any type where a row has several targets.
        row_ids: int64 [B], stable ids of the rows in their sources.
        queries: int64 [B], equal for rows that are ranked against each other; None for none.

    Returns:
        The file's bytes; equal for equal rows.
    """
    if isinstance(x, Record):
        columns = {_FIELD + name: _column(values) for name, values in x.fields.items()}
        fields = [{"name": name, **_form(values)} for name, values in x.fields.items()]
        metadata = {"fields": json.dumps(fields)}
        if x.layout is not None:
            metadata["columns"] = json.dumps(list(x.layout.widths))
    else:
        columns = {"x": _column(x)}
        metadata = {"shape": json.dumps(list(x.shape[1:])), "dtype": str(x.dtype)}
    columns |= {"y": pa.array(y) if y.ndim == 1 else _fixed(y), "row_id": pa.array(row_ids)}
    if y.ndim > 1:
        metadata["targets"] = json.dumps(_form(y))
    if queries is not None:
        columns["query"] = pa.array(queries)
    batch = pa.record_batch([*columns.values()], names=[*columns])
    batch = batch.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _form(values: _Array | Ragged) -> dict[str, Any]:
    items = values.values_N if isinstance(values, Ragged) else values
    form = "list" if isinstance(values, Ragged) else "array"
    return {"form": form, "dtype": str(items.dtype), "shape": list(items.shape[1:])}


def _column(values: _Array | Ragged) -> pa.Array:
    """A column whose last buffer holds all values, one after the other."""
    if not isinstance(values, Ragged):
        return _fixed(values)
    items, offsets = values.values_N, pa.py_buffer(np.ascontiguousarray(values.offsets))
    if items.dtype == np.uint8 and items.ndim == 1:
        buffer = pa.py_buffer(np.ascontiguousarray(items))
        return pa.Array.from_buffers(pa.large_binary(), len(values), [None, offsets, buffer])
    inner = _fixed(items) if items.ndim > 1 else pa.array(np.ascontiguousarray(items))
    kind = pa.large_list(inner.type)
    return pa.Array.from_buffers(kind, len(values), [None, offsets], children=[inner])


def _fixed(values: _Array) -> pa.Array:
    flat = np.ascontiguousarray(values).reshape(-1)
    width = math.prod(values.shape[1:])
    if values.dtype == np.uint8:
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), len(values), [None, pa.py_buffer(flat)]
        )
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)


def take_rows(x: Any, positions: Ids) -> Any:
    """Copies rows.

    Args:
        x: An array, lists, or a record.
        positions: Valid positions of rows, in any order; they are not checked.
    """
    # Twice as fast as x[positions] on rows of a few hundred bytes. "clip" skips a check of the
    # positions, which `Rows.gather` has made.
    if isinstance(x, np.ndarray):
        return np.take(x, positions, axis=0, mode="clip")
    if isinstance(x, Record):
        fields = {name: take_rows(values, positions) for name, values in x.fields.items()}
        return Record(fields, x.layout)
    return x[positions]


@dataclass(frozen=True)
class Shard:
    """Arrays over a mapped shard of B rows.

    Attributes:
        x: Rows, each flat: [B, values of a row], or a record of such fields.
        shapes: Shape of a row of each array; under an empty name for rows that are one array.
        y: Targets [B] or [B, K].
        row_ids: Ids of the rows in their sources.
        queries: The group of each row in which it is ranked, int64 [B]; None without groups.
        file: The mapping, if the kernel was told how it is going to be read.
    """

    x: Inputs
    shapes: dict[str, tuple[int, ...]]
    y: _Array
    row_ids: Ids
    queries: Ids | None = None
    file: MappedFile | None = None

    def take(self, positions: Ids) -> tuple[Inputs, _Array]:
        """Copies rows and their targets out of the shard.

        Args:
            positions: int64, valid positions of rows of this shard.
        """
        x = take_rows(self.x, positions)
        # Rows are flat until here: an array of two axes is copied faster than one of four.
        if isinstance(x, Record):
            fields = {name: self._shaped(name, values) for name, values in x.fields.items()}
            return Record(fields, x.layout), take_rows(self.y, positions)
        return self._shaped("", x), take_rows(self.y, positions)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Items of all lists of each row, [B]; zeros for rows without lists."""
        total = np.zeros(len(self.y), dtype=np.int32)
        for values in self.x.fields.values() if isinstance(self.x, Record) else ():
            if isinstance(values, Ragged):
                total += values.lengths.astype(np.int32)
        return total

    def prefetch(self, start: int, stop: int) -> None:
        """Makes the kernel read some neighbouring rows, without waiting for them."""
        if self.file is not None:
            self.file.prefetch(self._arrays(start, stop))

    def forget(self, start: int, stop: int) -> None:
        """Drops the pages of some neighbouring rows from memory."""
        if self.file is not None:
            self.file.forget(self._arrays(start, stop))

    def _arrays(self, start: int, stop: int) -> Iterator[_Array]:
        """The memory that `take` reads for some neighbouring rows."""
        fields = self.x.fields.values() if isinstance(self.x, Record) else [self.x]
        for values in fields:
            if isinstance(values, Ragged):
                yield values.offsets[start : stop + 1]
                yield values.values_N[values.offsets[start] : values.offsets[stop]]
            else:
                yield values[start:stop]
        yield self.y[start:stop]

    def _shaped(self, name: str, values: Any) -> Any:
        if isinstance(values, Ragged):
            return values
        return values.reshape(len(values), *self.shapes[name])


def map_shard(path: Path, advice: int | None = None) -> Shard:
    """Maps a shard into memory.

    Args:
        path: A file that `shard_bytes` made, on a disk of this machine.
        advice: How its rows are going to be read, for `mmap.madvise`; None says nothing.

    Raises:
        DataError: The file is not a shard.
    """
    try:
        # Arrow's own mapping takes no advice.
        file = None if advice is None else MappedFile(path, advice)
        opened = pa.memory_map(str(path)) if file is None else pa.BufferReader(file.buffer)
        with opened as source, pa.ipc.open_file(source) as reader:
            batch = reader.get_batch(0)
    # An empty file cannot be mapped, which is a ValueError, as is what Arrow calls invalid.
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} is not a shard: {error}", "Delete the data set's folder and prepare it again."
        ) from error
    metadata = {key.decode(): value.decode() for key, value in batch.schema.metadata.items()}
    row_ids = batch.column("row_id").to_numpy(zero_copy_only=True)
    if "targets" in metadata:
        y = _values(batch.column("y"), json.loads(metadata["targets"]))
    else:
        y = batch.column("y").to_numpy(zero_copy_only=True)
    queries = None
    if "query" in batch.schema.names:
        queries = batch.column("query").to_numpy(zero_copy_only=True)
    if "fields" not in metadata:
        form = {"form": "array", "dtype": metadata["dtype"], "shape": json.loads(metadata["shape"])}
        x = _values(batch.column("x"), form)
        return Shard(x, {"": tuple(form["shape"])}, y, row_ids, queries, file)
    forms = {one["name"]: one for one in json.loads(metadata["fields"])}
    widths = json.loads(metadata.get("columns", "null"))
    layout = None if widths is None else TableLayout(tuple(widths))
    fields = {name: _values(batch.column(_FIELD + name), form) for name, form in forms.items()}
    shapes = {name: tuple(form["shape"]) for name, form in forms.items()}
    return Shard(Record(fields, layout), shapes, y, row_ids, queries, file)


def _values(column: pa.Array, form: dict[str, Any]) -> Any:
    """Values of a column without a copy: flat rows [B, values of a row], or lists."""
    dtype, width, num_rows = np.dtype(form["dtype"]), math.prod(form["shape"]), len(column)
    # The last buffer holds the values; the ones before it mark nulls, of which there are none.
    buffers = column.buffers()
    if form["form"] == "array":
        count = num_rows * width
        return np.frombuffer(buffers[-1], dtype=dtype, count=count).reshape(num_rows, width)
    offsets = np.frombuffer(buffers[1], dtype=np.int64, count=num_rows + 1)
    count = int(offsets[-1]) * width
    # Arrow may omit the buffer if there are no items.
    items = np.frombuffer(buffers[-1], dtype, count) if count else np.empty(0, dtype)
    return Ragged(items.reshape(-1, *form["shape"]), offsets)
