"""The rows of a prepared data set, in fixed-size Arrow shards: `train-00000.arrow` and so on.

Written in tasks of Ray Data, read in workers; does not import Ray. `raydc.data.shard_file` is one
file. All shards of a split but the last hold `rows_per_shard` rows, in the order of the row ids.

Shape suffixes: B rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.data import cold_rows, content_check, manifest
from raydc.data.cold_rows import PLAIN, Reading
from raydc.data.file_decoder import FileDecoder
from raydc.data.shard_file import Shard, map_shard, shard_bytes, take_rows
from raydc.features import Features, Inputs
from raydc.features.record import join_rows
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
        decode: Turns stored images into pixels; None if there are none.
        is_shuffled: Whether the rows are going to be read in random order, again and again.
    """

    def __init__(
        self,
        folder: Storage,
        names: Sequence[str],
        num_rows: int,
        per_shard: int,
        files: Mapping[str, Any],
        decode: Callable[[Inputs], Inputs] | None = None,
        is_shuffled: bool = False,
    ) -> None:
        self._folder = folder
        self._names = list(names)
        self._num_rows = num_rows
        self._per_shard = per_shard
        self._files = files
        self._decode = decode
        self._is_shuffled = is_shuffled
        self._open: dict[int, Shard] = {}

    def __len__(self) -> int:
        return self._num_rows

    def gather(self, positions: Ids) -> tuple[Inputs, _Array]:
        """Copies rows out of the shards.

        Args:
            positions: int64 [B], each in [0, len(self)), in any order, repeated or not.

        Returns:
            x, an array [B, *shape] or a record with columns as they are stored, and y, [B] or
            [B, targets], in the order of `positions`.

        Raises:
            IndexError: A position lies outside.
            DataError: A shard is damaged.
        """
        # A negative position is a huge one without its sign, so one look finds both.
        if len(positions) and positions.view(np.uint64).max() >= self._num_rows:
            raise IndexError(f"positions must be in [0, {self._num_rows})")
        if len(self._names) == 1 or not len(positions):
            x, y = self._shard(0).take(positions)
        else:
            x, y = self._gather_from_shards(positions)
        return x if self._decode is None else self._decode(x), y

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
            self._shard(index).take(ordered[start:stop] - bounds[index])
            for index, (start, stop) in enumerate(itertools.pairwise(cuts))
            if start < stop
        ]
        x, y = join_rows([x for x, _ in parts]), np.concatenate([y for _, y in parts])
        return take_rows(x, back), take_rows(y, back)

    @cached_property
    def reading(self) -> Reading:
        """How the rows are read; decided once, by the memory that is there at the first use."""
        if not self._is_shuffled:
            return PLAIN
        num_bytes = sum(self._files[name]["bytes"] for name in self._names)
        may_keep = self._decode is None
        return cold_rows.choose(self._num_rows, num_bytes, may_keep, cold_rows.available_bytes())

    def prefetch(self, start: int, stop: int) -> None:
        """Makes the kernel read the rows from `start` to `stop`, without waiting for them."""
        for shard, first, end in self._parts_of(start, stop):
            shard.prefetch(first, end)

    def forget(self, start: int, stop: int) -> None:
        """Drops the pages of the rows from `start` to `stop` from memory; the rows stay there."""
        for shard, first, end in self._parts_of(start, stop):
            shard.forget(first, end)

    def _parts_of(self, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        """The shards of some neighbouring rows, and which of their rows those are."""
        for index in range(start // self._per_shard, -(-stop // self._per_shard)):
            before = index * self._per_shard
            yield (
                self._shard(index),
                max(start, before) - before,
                min(stop - before, self._per_shard),
            )

    @cached_property
    def ids(self) -> Ids:
        """Id of each row in its sources, int64 [N], ascending."""
        parts = [self._shard(index).row_ids for index in range(len(self._names))]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    @cached_property
    def targets(self) -> _Array:
        """Target of each row, [N]: int64 class positions, or float32; [N, K] of several."""
        parts = [self._shard(index).y for index in range(len(self._names))]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Items of all lists of each row, [N]; no item is read."""
        parts = [self._shard(index).lengths for index in range(len(self._names))]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    @cached_property
    def queries(self) -> Ids | None:
        """Number of the group in which each row is ranked, int64 [N]; None without groups."""
        parts = [self._shard(index).queries for index in range(len(self._names))]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if known else None

    def _open_all(self, indices: Sequence[int]) -> None:
        """Opens several shards at once, because the hash of one keeps one CPU busy."""
        missing = [index for index in indices if index not in self._open]
        if len(missing) > 1:
            with ThreadPoolExecutor(_NUM_HASH_THREADS) as threads:
                list(threads.map(self._shard, missing))

    def _shard(self, index: int) -> Shard:
        if index not in self._open:
            path = self._intact_path(self._names[index])
            self._open[index] = map_shard(path, self.reading.advice)
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


def open_rows(folder: Storage, split: str, is_shuffled: bool = False) -> Rows:
    """Opens a split of a prepared data set.

    Args:
        folder: Folder of the prepared data set; its manifest is verified first.
        split: One of `SPLITS`.
        is_shuffled: Whether the rows are going to be read in random order, again and again. If they
            do not fit into memory, they are read in another way then (`Rows.reading`).

    Raises:
        DataError: The folder is not a prepared data set, or a file is missing or damaged; or this
            machine decodes its images to other pixels.
    """
    facts = manifest.read(folder)
    manifest.verify(folder, facts)
    parts = facts["shards"], facts["rows"], facts["rows_per_shard"], facts["files"]
    if "images" not in facts:
        return _rows(folder, split, *parts, is_shuffled=is_shuffled)
    features = Features.from_dict(manifest.read_json(folder, facts, "features.json"))
    decoder = FileDecoder(features, facts["images"], folder.uri)
    first, _ = _rows(folder, "train", *parts).gather(np.zeros(1, dtype=np.int64))
    decoder.check(first)
    return _rows(folder, split, *parts, decoder, is_shuffled)


def _rows(
    folder: Storage,
    split: str,
    names: Mapping[str, Any],
    num_rows: Mapping[str, int],
    per_shard: int,
    files: Mapping[str, Any],
    decode: FileDecoder | None = None,
    is_shuffled: bool = False,
) -> Rows:
    return Rows(folder, names[split], num_rows[split], per_shard, files, decode, is_shuffled)


def write_data_set(
    folder: Storage,
    features: Features,
    splits: Mapping[str, tuple[Inputs, _Array]],
    golden_rows: Sequence[Mapping[str, Any]] = (),
    num_rows_per_shard: int | None = None,
    queries: Mapping[str, Ids] | None = None,
) -> dict[str, Any]:
    """Writes arrays as a prepared data set: for benchmarks and tests, which have no sources.

    Args:
        folder: Folder that gets the shards and the manifest.
        features: Features whose signature fits the arrays.
        splits: x (an array [N, *shape] or a record) and y [N] by name of the split; splits left
            out are empty.
        golden_rows: Rows as JSON values, with which a served model is checked.
        num_rows_per_shard: Rows of every shard but a split's last; None means the size that
            `prepare` chooses.
        queries: Groups in which the rows of each split are ranked; None for none.

    Returns:
        The manifest. Row ids count through all splits.
    """
    example, _ = splits["train"]
    per_shard = num_rows_per_shard or rows_per_shard(example.nbytes // max(1, len(example)))
    files: dict[str, Any] = {}
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    first_id = 0
    for split, (x, y) in splits.items():
        for index, start in enumerate(range(0, len(x), per_shard)):
            stop = min(start + per_shard, len(x))
            name = shard_name(split, index)
            # Ids continue over the splits, because they are unique in a data set.
            ids = np.arange(first_id + start, first_id + stop, dtype=np.int64)
            groups = None if queries is None else queries[split][start:stop]
            files[name] = manifest.write_file(
                folder, name, shard_bytes(x[start:stop], y[start:stop], ids, groups)
            )
            names[split].append(name)
        first_id += len(x)
    rows = {split: len(splits[split][0]) if split in splits else 0 for split in SPLITS}
    facts = {"rows": rows, "shards": names, "rows_per_shard": per_shard}
    return manifest.write(folder, features, golden_rows, files, facts)
