"""The rows of a prepared data set, in fixed-size Arrow shards: `train-00000.arrow` and so on.

Written in tasks of Ray Data, read in workers; does not import Ray. A shard is an Arrow IPC file of
one record batch with the columns `x` (a fixed number of bytes, or a fixed-size list of float32),
`y` (int64 or float32) and `row_id` (int64), so that a memory map is an array. All shards of a split
but the last hold `rows_per_shard` rows, in the order of the row ids.

Shape suffixes: B rows.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import content_check, manifest
from raydc.errors import DataError
from raydc.features import Features
from raydc.order import Ids
from raydc.storage import Storage, sha256

SPLITS = ("train", "validation", "test")
# Large enough for few files and few requests to a store, small enough for many tasks to write.
_SHARD_BYTES = 64 * 1024 * 1024
_NUM_HASH_THREADS = 4
_Array = npt.NDArray[Any]


def rows_per_shard(row_bytes: int) -> int:
    """Number of rows of a full shard, for rows of `row_bytes` bytes each."""
    return max(1, _SHARD_BYTES // max(1, row_bytes))


def shard_name(split: str, index: int) -> str:
    """File name of the shard of a split with an index, from 0."""
    return f"{split}-{index:05d}{manifest.SHARD_SUFFIX}"


def shard_bytes(x: _Array, y: _Array, row_ids: Ids) -> pa.Buffer:
    """Serialises one shard as an Arrow IPC file.

    Args:
        x: [B, *shape] uint8 or float32, rows as the network takes them.
        y: [B] int64 or float32.
        row_ids: int64 [B], stable ids of the rows in their sources.

    Returns:
        The file's bytes; equal for equal arrays.
    """
    flat = np.ascontiguousarray(x).reshape(-1)
    width = flat.size // max(1, len(x))
    # Both columns have one buffer of fixed width, so that a memory map of it is an array.
    if x.dtype == np.uint8:
        column = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), len(x), [None, pa.py_buffer(flat)]
        )
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    metadata = {"shape": json.dumps(list(x.shape[1:])), "dtype": str(x.dtype)}
    batch = pa.record_batch([column, pa.array(y), pa.array(row_ids)], names=["x", "y", "row_id"])
    batch = batch.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


@dataclass(frozen=True)
class _Shard:
    """Arrays over a mapped shard of N rows; `x` is flat, [N, values of a row]."""

    shape: tuple[int, ...]
    x: _Array
    y: _Array
    row_ids: Ids


def _map_shard(path: Path) -> _Shard:
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            batch = reader.get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is not a shard: {error}", "Delete the data set's folder and prepare it again."
        ) from error
    metadata = {key.decode(): value.decode() for key, value in batch.schema.metadata.items()}
    shape, dtype = tuple(json.loads(metadata["shape"])), np.dtype(metadata["dtype"])
    column = batch.column("x")
    # The last buffer holds the values; the ones before it mark nulls, of which there are none.
    values = column.buffers()[-1] if dtype == np.uint8 else column.flatten().buffers()[-1]
    width = math.prod(shape)
    return _Shard(
        shape,
        np.frombuffer(values, dtype=dtype, count=batch.num_rows * width).reshape(
            batch.num_rows, width
        ),
        batch.column("y").to_numpy(zero_copy_only=True),
        batch.column("row_id").to_numpy(zero_copy_only=True),
    )


def _take(values: _Array, positions: Ids) -> _Array:
    # Twice as fast as values[positions] on rows of a few hundred bytes. "clip" skips a check of the
    # positions, which `Rows.gather` has made.
    return np.take(values, positions, axis=0, mode="clip")


class Rows:
    """The rows of one split, by position.

    Local shards are memory-mapped. Remote ones are copied to the node first. A shard is compared
    with its sha256 before its first row is used.

    Args:
        folder: Folder of the prepared data set; local files are mapped, others are cached.
        names: File names of the split's shards, in the order of the rows.
        num_rows: Rows of the split, over all shards.
        per_shard: Rows of every shard but the last, so that a position gives its shard.
        files: `bytes` and `sha256` by file name, which a fetched shard is compared with.
    """

    def __init__(
        self,
        folder: Storage,
        names: Sequence[str],
        num_rows: int,
        per_shard: int,
        files: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._names = list(names)
        self._num_rows = num_rows
        self._per_shard = per_shard
        self._files = files
        self._open: dict[int, _Shard] = {}

    def __len__(self) -> int:
        return self._num_rows

    def gather(self, positions: Ids) -> tuple[_Array, _Array]:
        """Copies rows out of the shards.

        Args:
            positions: int64 [B], each in [0, len(self)), in any order, repeated or not.

        Returns:
            x [B, *shape] and y [B], in the order of `positions`.

        Raises:
            IndexError: A position lies outside.
            DataError: A shard is damaged.
        """
        if len(positions) and not 0 <= positions.min() <= positions.max() < self._num_rows:
            raise IndexError(f"positions must be in [0, {self._num_rows})")
        if len(self._names) == 1 or not len(positions):
            shard = self._shard(0)
            x_flat, y = _take(shard.x, positions), _take(shard.y, positions)
        else:
            x_flat, y = self._gather_from_shards(positions)
        return x_flat.reshape(len(positions), *self._shape), y

    def _gather_from_shards(self, positions: Ids) -> tuple[_Array, _Array]:
        # Rows are taken shard by shard and then put back in order: two plain copies are faster than
        # scattered writes.
        order = np.argsort(positions)
        ordered = positions[order]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        bounds = np.arange(len(self._names) + 1) * self._per_shard
        if len(self._open) < len(self._names):
            self._open_all(np.unique(ordered // self._per_shard).tolist())
        # ordered[cuts[i]:cuts[i + 1]] are the positions in shard i.
        cuts = np.searchsorted(ordered, bounds).tolist()
        parts = [
            (self._shard(index), ordered[start:stop] - bounds[index])
            for index, (start, stop) in enumerate(itertools.pairwise(cuts))
            if start < stop
        ]
        x_flat = np.concatenate([_take(shard.x, inner) for shard, inner in parts])
        y = np.concatenate([_take(shard.y, inner) for shard, inner in parts])
        return _take(x_flat, back), _take(y, back)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return self._shard(0).shape

    @cached_property
    def ids(self) -> Ids:
        """Id of each row in its sources, int64 [N], ascending."""
        parts = [self._shard(index).row_ids for index in range(len(self._names))]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    @cached_property
    def targets(self) -> _Array:
        """Target of each row, [N]: int64 class positions, or float32."""
        parts = [self._shard(index).y for index in range(len(self._names))]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _open_all(self, indices: Sequence[int]) -> None:
        """Opens several shards at once, because the hash of one keeps one CPU busy."""
        missing = [index for index in indices if index not in self._open]
        if len(missing) > 1:
            with ThreadPoolExecutor(_NUM_HASH_THREADS) as threads:
                list(threads.map(self._shard, missing))

    def _shard(self, index: int) -> _Shard:
        if index not in self._open:
            self._open[index] = _map_shard(self._intact_path(self._names[index]))
        return self._open[index]

    def _intact_path(self, name: str) -> Path:
        if not self._folder.is_local:
            return _fetch(self._folder, name, self._files[name])
        path = self._folder.local_path / name
        manifest.check_local(self._folder, name, path, self._files[name])
        return path


def _fetch(folder: Storage, name: str, entry: Mapping[str, Any]) -> Path:
    """Copies a remote shard to this node once for all its processes; returns the copy's path."""
    # By data set and content, so that a data set that was prepared again under the same name is not
    # mixed up with the old one.
    cache = content_check.cache_folder() / sha256(folder.uri.encode())[:16]
    path = cache / f"{entry['sha256'][:16]}-{name}"
    # A damaged copy is no reason to refuse: the remote shard replaces it.
    if path.is_file() and content_check.compare(path, entry) is None:
        return path
    content = folder.read_bytes(name)
    manifest.check_entry(folder, name, len(content), sha256(content), entry)
    Storage(str(cache)).write_bytes(path.name, content)
    return path


def open_rows(folder: Storage, split: str) -> Rows:
    """Opens a split of a prepared data set.

    Args:
        folder: Folder of the prepared data set; its manifest is verified first.
        split: One of `SPLITS`.

    Raises:
        DataError: The folder is not a prepared data set, or a file is missing or damaged.
    """
    facts = manifest.read(folder)
    manifest.verify(folder, facts)
    return Rows(
        folder,
        facts["shards"][split],
        facts["rows"][split],
        facts["rows_per_shard"],
        facts["files"],
    )


def write_data_set(
    folder: Storage,
    features: Features,
    splits: Mapping[str, tuple[_Array, _Array]],
    golden_rows: Sequence[Mapping[str, Any]] = (),
    num_rows_per_shard: int | None = None,
) -> dict[str, Any]:
    """Writes arrays as a prepared data set: for benchmarks and tests, which have no sources.

    Args:
        folder: Folder that gets the shards and the manifest.
        features: Features whose signature fits the arrays.
        splits: x [N, *shape] and y [N] by name of the split; splits left out are empty.
        golden_rows: Rows as JSON values, with which a served model is checked.
        num_rows_per_shard: Rows of every shard but a split's last; None means the size that
            `prepare` chooses.

    Returns:
        The manifest. Row ids count through all splits.
    """
    example, _ = splits["train"]
    # All rows have one size, so the first one tells how many fit into a shard.
    per_shard = num_rows_per_shard or rows_per_shard(example[:1].nbytes)
    files: dict[str, Any] = {}
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    first_id = 0
    for split, (x, y) in splits.items():
        for index, start in enumerate(range(0, len(x), per_shard)):
            stop = min(start + per_shard, len(x))
            name = shard_name(split, index)
            # Ids continue over the splits, because they are unique in a data set.
            ids = np.arange(first_id + start, first_id + stop, dtype=np.int64)
            files[name] = manifest.write_file(
                folder, name, shard_bytes(x[start:stop], y[start:stop], ids)
            )
            names[split].append(name)
        first_id += len(x)
    rows = {split: len(splits[split][0]) if split in splits else 0 for split in SPLITS}
    facts = {"rows": rows, "shards": names, "rows_per_shard": per_shard}
    return manifest.write(folder, features, golden_rows, files, facts)
