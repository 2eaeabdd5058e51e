"""The stages of a preparation, each over the blocks of the one before: read, look, clean, fit, write.

Blocks stay in Ray's object store from the first stage to the last; the driver sees counts and places only.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raydc.data import clean, fit, infer, manifest, shards, tasks, values, write
from raydc.data.clean import Cleaner
from raydc.data.readers import Reader
from raydc.data.shards import SPLITS
from raydc.data.sources import Layout
from raydc.errors import DataError, Say
from raydc.features import Features
from raydc.order import Ids
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

_READ_TASKS_PER_CPU = 4
_REPORT_EVERY_S = 5.0
_ROWS_PER_DUPLICATE_TASK = 4_000_000


class PrepareJob:
    """One preparation.

    Args:
        spec: A resolved spec.
        layout: The files of its source.
        folder: Where the data set goes.
        report: Gets one line per stage.
        parallelism: Tasks that read; None: by the cluster.
    """

    def __init__(
        self,
        spec: ResolvedSpec,
        layout: Layout,
        folder: Storage,
        report: Say,
        parallelism: int | None,
    ) -> None:
        self._spec = spec
        self._layout = layout
        self._folder = folder
        self._report = report
        self._parallelism = parallelism

    def run(self, made_from: dict[str, Any]) -> None:
        """All stages; the manifest, which gets `made_from` too, comes last.

        Raises:
            DataError: A row or a column that cannot be used, by its place.
        """
        blocks, total = self._read()
        kinds = infer.Decision(self._spec.data, self._layout, total, self._report).kinds()
        cleaner = Cleaner(self._layout.first_test_id, self._spec.data, self._spec.seed, kinds)
        cleaner = replace(cleaner, duplicates=self._find_duplicates(blocks, total["rows"]))
        features, rows = self._fit(blocks, cleaner)
        row_bytes = (
            math.prod(features.signature.shape) * np.dtype(features.signature.dtype).itemsize
        )
        rows_per_shard = shards.rows_per_shard(row_bytes)
        plan = write.plan_shards(rows, rows_per_shard)
        files = self._write(blocks, plan, cleaner, features)
        facts = {
            "rows": {
                name: sum(block[split] for block in rows) for split, name in enumerate(SPLITS)
            },
            "shards": {name: [s.name for s in plan if SPLITS[s.split] == name] for name in SPLITS},
            "rows_per_shard": rows_per_shard,
        }
        golden = self._golden_rows(blocks, plan, cleaner)
        manifest.verify(
            self._folder,
            manifest.write(self._folder, features, golden, files, {**made_from, **facts}),
        )

    def _read(self) -> tuple[list[tasks.BlockRef], infer.Scan]:
        """Blocks in the order of their rows, and what stands in them."""
        layout = self._layout
        num_bytes = sum(file.num_bytes for file in layout.files)
        self._report(
            f"reading {layout.format}: {_many(len(layout.files), 'file')}, {num_bytes / 1e6:,.1f} MB"
        )
        pieces = Reader.of(layout, self._spec.data).pieces(layout.files)
        wanted = self._parallelism or _READ_TASKS_PER_CPU * int(
            ray.cluster_resources().get("CPU", 1)
        )
        bounds = (
            np.linspace(0, len(pieces), min(max(1, wanted), len(pieces)) + 1).astype(int).tolist()
        )
        calls = [partial(_read_all, pieces[a:b]) for a, b in itertools.pairwise(bounds)]
        blocks = tasks.read(calls, "ReadSources", self._parallelism, self._report_reading())
        scans = tasks.run(
            [partial(_on_block, infer.scan, block) for block in blocks], "ScanColumns"
        )
        found = [(scan, block) for scan, block in zip(scans, blocks, strict=True) if scan["rows"]]
        found.sort(key=lambda item: item[0]["first"])
        total = infer.merge(scan for scan, _ in found)
        if not total["rows"]:
            raise DataError(f"{layout.files[0].path}: there are no rows in the sources")
        columns = _many(len(total["columns"]), "column")
        self._report(f"read {_many(total['rows'], 'row')} of {columns}")
        return [block for _, block in found], total

    def _report_reading(self) -> Callable[[int], None]:
        last_s = time.monotonic()

        def on_rows(num_rows: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= _REPORT_EVERY_S:
                last_s = time.monotonic()
                self._report(f"read {_many(num_rows, 'row')} so far")

        return on_rows

    def _find_duplicates(self, blocks: Sequence[tasks.BlockRef], num_rows: int) -> Ids:
        if self._spec.data.clean.duplicates == "keep":
            return np.empty(0, dtype=np.int64)
        # Each task sees all digests and answers for those of one residue, so that its memory has a bound.
        num_parts = -(-num_rows // _ROWS_PER_DUPLICATE_TASK)
        calls = [partial(_later_copies, list(blocks), part, num_parts) for part in range(num_parts)]
        copies = sorted(row_id for found in tasks.run(calls, "FindDuplicates") for row_id in found)
        self._report(f"dropping {_many(len(copies), 'row')} that repeat an earlier one")
        return np.array(copies, dtype=np.int64)

    def _fit(
        self, blocks: Sequence[tasks.BlockRef], cleaner: Cleaner
    ) -> tuple[Features, list[list[int]]]:
        """The features, and the rows of each split in each block."""
        work = partial(_partial, ray.put(cleaner))
        parts = tasks.run([partial(_on_block, work, block) for block in blocks], "FitFeatures")
        total = fit.merge(parts)
        self._check_splits(total)
        features = fit.finish(total, cleaner, self._layout)
        for note in fit.notes(total, cleaner):
            self._report(note)
        splits = ", ".join(
            f"{name} {count:,}" for name, count in zip(SPLITS, total["rows"], strict=True)
        )
        dropped = f"; {total['dropped']:,} dropped" if total["dropped"] else ""
        self._report(f"split: {splits}{dropped}")
        self._report(f"features: {_describe(features)}")
        return features, [part["rows"] for part in parts]

    def _check_splits(self, total: fit.Partial) -> None:
        split = self._spec.data.split
        rows = dict(zip(SPLITS, total["rows"], strict=True))
        num_rows = sum(rows.values())
        wanted = {"train": True, "validation": split.validation_fraction > 0}
        wanted["test"] = self._layout.first_test_id is not None or bool(split.test_fraction)
        for name, is_wanted in wanted.items():
            if is_wanted and not rows[name]:
                dropped = f" ({total['dropped']:,} were dropped)" if total["dropped"] else ""
                message = f"of {num_rows:,} rows{dropped} none is left for {name}"
                raise DataError(message, f"Give more rows, or set data.split.{name}_fraction to 0.")

    def _write(
        self,
        blocks: Sequence[tasks.BlockRef],
        plan: Sequence[write.PlannedShard],
        cleaner: Cleaner,
        features: Features,
    ) -> dict[str, Any]:
        shared = ray.put((cleaner, features))
        calls = [
            partial(
                _write_shard,
                shard,
                [blocks[piece[0]] for piece in shard.pieces],
                self._folder,
                shared,
            )
            for shard in plan
        ]
        quarters = {len(plan) * part // 4 for part in (1, 2, 3)} if len(plan) >= 8 else set()

        def on_done(num_done: int) -> None:
            if num_done in quarters:
                self._report(f"wrote {num_done:,} of {len(plan):,} shards")

        entries = tasks.run(calls, "WriteShards", on_done)
        num_bytes = sum(entry["bytes"] for entry in entries)
        self._report(f"wrote {_many(len(plan), 'shard')}, {num_bytes / 1e6:,.1f} MB")
        return {shard.name: entry for shard, entry in zip(plan, entries, strict=True)}

    def _golden_rows(
        self, blocks: Sequence[tasks.BlockRef], plan: Sequence[write.PlannedShard], cleaner: Cleaner
    ) -> list[dict[str, Any]]:
        held_out = max(plan, key=lambda shard: (shard.split, -shard.index))
        call = partial(
            _golden_rows, held_out, [blocks[piece[0]] for piece in held_out.pieces], cleaner
        )
        return list(tasks.run([call], "GoldenRows")[0])


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _describe(features: Features) -> str:
    signature = features.signature
    shape = " x ".join(map(str, signature.shape))
    what = f"{_many(len(features.columns), 'column')} -> {shape} inputs"
    if signature.kind == "image":
        what = f"images of {shape} (channels x height x width)"
    return (
        f"{what}, {len(signature.classes)} classes" if signature.classes else f"{what}, one value"
    )


# In the tasks ----------------------------------------------------------------------------------------


def _read_all(pieces: Sequence[Callable[[], Iterable[pa.Table]]]) -> Iterable[pa.Table]:
    for piece in pieces:
        yield from piece()


def _on_block(work: Callable[[pa.Table], Any], block: tasks.BlockRef) -> Any:
    return work(ray.get(block))


def _partial(cleaner: Any, table: pa.Table) -> fit.Partial:
    return fit.partial(table, ray.get(cleaner))


def _later_copies(blocks: Sequence[tasks.BlockRef], part: int, num_parts: int) -> list[int]:
    ids, digests = [], []
    for block in blocks:
        table = ray.get(block)
        for row_id, digest in zip(
            values.row_ids(table).tolist(), table.column(values.DIGEST).to_pylist(), strict=True
        ):
            if int.from_bytes(digest[:8], "little") % num_parts == part:
                ids.append(row_id)
                digests.append(digest)
    return list(clean.later_copies(np.array(ids, dtype=np.int64), digests).tolist())


def _write_shard(
    shard: write.PlannedShard, blocks: Sequence[tasks.BlockRef], folder: Storage, shared: Any
) -> dict[str, Any]:
    cleaner, features = ray.get(shared)
    rows = write.rows_of(shard, ray.get(list(blocks)), cleaner)
    try:
        return write.write_shard(rows, shard.name, folder, features, cleaner)
    except OSError as error:
        hint = "Is there space, may this user write there, and does every node reach it?"
        raise DataError(f"storage {folder.uri} cannot be written: {error}", hint) from error


def _golden_rows(
    shard: write.PlannedShard, blocks: Sequence[tasks.BlockRef], cleaner: Cleaner
) -> list[dict[str, Any]]:
    return write.golden_rows(write.rows_of(shard, ray.get(list(blocks)), cleaner), cleaner)
