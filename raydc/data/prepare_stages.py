"""The stages of a preparation: read, scan, clean, fit, write. Runs in the driver.

Every stage is a set of tasks over the blocks of the first. Blocks stay in Ray's object store from
the first stage to the last; the driver sees counts and places only. Of a small source, all of it
happens in the driver (`tasks.run_placed`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from raydc.data import (
    block_tasks,
    column_notes,
    fit,
    manifest,
    rank_stage,
    shards,
    split_stage,
    tasks,
    window_stage,
)
from raydc.data.clean import Cleaner
from raydc.data.column_kinds import ColumnKinds
from raydc.data.column_scan import BlockScan, merge_scans
from raydc.data.column_statistics import RowStatistics, merge_statistics
from raydc.data.encoded_images import choose_columns
from raydc.data.fit_target_means import fit_out_of_fold
from raydc.data.layout import Layout
from raydc.data.lines import count_of, describe_features
from raydc.data.readers import Reader
from raydc.data.row_faults import QUARANTINE, Refused
from raydc.data.shard_plan import PlannedShard, plan_shards
from raydc.data.shards import SPLITS
from raydc.errors import DataError, Say
from raydc.features import Features, TargetMean
from raydc.features.row_inputs import stored_row_bytes
from raydc.order import Ids
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

# More tasks than CPUs, so that one large file does not keep the others waiting at the end.
_READ_TASKS_PER_CPU = 4
# A digest and a row id take about 150 bytes as Python objects: some 600 MB per task.
_ROWS_PER_DUPLICATE_TASK = 4_000_000
# With fewer shards, all progress lines would appear within a second.
_MIN_SHARDS_TO_REPORT = 8


class PrepareStages:
    """Takes one data set from its sources to its manifest.

    Args:
        spec: The resolved spec; its section `data` and its seed decide the content.
        layout: Files of the source, listed once so that all stages read the same ones.
        folder: Folder of the new data set; it becomes valid with its manifest.
        report: Prints one line per stage.
        parallelism: Number of tasks that read; None chooses by the CPUs of the cluster.
        report_every_s: Minimum seconds between two lines about the rows read so far.
    """

    def __init__(
        self,
        spec: ResolvedSpec,
        layout: Layout,
        folder: Storage,
        report: Say,
        parallelism: int | None,
        report_every_s: float,
    ) -> None:
        self._spec = spec
        self._layout = layout
        self._folder = folder
        self._report = report
        self._parallelism = parallelism
        self._report_every_s = report_every_s

    def run(self, made_from: dict[str, Any]) -> None:
        """Runs all stages; the manifest comes last.

        Args:
            made_from: What the content depends on; the manifest holds it too.

        Raises:
            DataError: A row or a column that cannot be used, with its place.
        """
        blocks, cleaner, columns = self.open_sources()
        refused = self._refuse(blocks, cleaner)
        features, without, num_rows, as_files = self._fit(blocks, cleaner, columns.ignored)
        # x alone counts: y and the row id add at most 16 bytes.
        row_bytes = stored_row_bytes(features.signature, features.layout, as_files)
        rows_per_shard = shards.rows_per_shard(row_bytes)
        plan = plan_shards(num_rows, rows_per_shard)
        shared = (cleaner, features, list(as_files), without)
        files = self._write(blocks, plan, shared)
        # Facts about the first training row, with which each reader checks its own decoder.
        images, *_ = [entry.pop("images", None) for entry in files.values()]
        facts = {
            "rows": {
                name: sum(block[split] for block in num_rows) for split, name in enumerate(SPLITS)
            },
            "shards": {name: [s.name for s in plan if SPLITS[s.split] == name] for name in SPLITS},
            "rows_per_shard": rows_per_shard,
            **({"images": images} if images else {}),
        }
        if refused is not None:
            facts["refused"] = {"rows": refused.num_rows, "faults": refused.counts}
            if self._spec.data.clean.on_error == "quarantine":
                listed = refused.lines(self._layout)
                files[QUARANTINE] = manifest.write_file(self._folder, QUARANTINE, listed)
        golden = self._take_golden_rows(blocks, plan, cleaner)
        written = manifest.write(self._folder, features, golden, files, {**made_from, **facts})
        # Nodes write shards on their own; this detects a disk that is not shared.
        manifest.verify(self._folder, written)

    def open_sources(self) -> tuple[list[tasks.BlockRef], Cleaner, ColumnKinds]:
        """Reads the sources, and decides what each column holds and which rows are dropped.

        Raises:
            DataError: A row or a column that cannot be used, with its place.
        """
        blocks, total = self._read()
        if self._spec.data.windows is not None:
            data = self._spec.data
            blocks, total = window_stage.cut(blocks, total, data, self._layout, self._report)
        columns = ColumnKinds(self._spec.data, self._layout, total, self._report)
        kinds = columns.decide()
        is_csv = self._layout.format == "csv"
        for note in column_notes.of_scan(total, kinds, self._spec.data, is_csv):
            self._report(note)
        cleaner = Cleaner(self._layout.first_test_id, self._spec.data, self._spec.seed, kinds)
        cleaner = replace(
            cleaner,
            duplicates=self._find_duplicates(blocks, total.num_rows),
            first_validation_id=self._layout.first_validation_id,
        )
        cleaner = split_stage.find_split(blocks, cleaner, self._layout)
        return blocks, rank_stage.find_limits(blocks, cleaner), columns

    def _read(self) -> tuple[list[tasks.BlockRef], BlockScan]:
        """Reads the sources: blocks in the order of their rows, and a scan of all of them."""
        layout = self._layout
        num_bytes = sum(file.num_bytes for file in layout.files)
        self._report(
            f"reading {layout.format}: {count_of(len(layout.files), 'file')}, "
            f"{num_bytes / 1e6:,.1f} MB"
        )
        for note in layout.notes:
            self._report(note)
        reader = Reader.for_layout(layout, self._spec.data)
        if reader.header is not None and layout.format == "csv" and self._spec.data.csv.header:
            for note in column_notes.of_header(reader.header, layout.files[0].path):
                self._report(note)
        pieces = reader.pieces(layout.files)
        num_tasks = self._parallelism or _READ_TASKS_PER_CPU * tasks.num_cpus()
        num_tasks = min(max(1, num_tasks), len(pieces))
        # Neighbouring pieces go into one task, so that the order of rows within it is kept.
        bounds = np.linspace(0, len(pieces), num_tasks + 1).astype(int).tolist()
        calls = [
            partial(block_tasks.read_pieces, pieces[start:stop])
            for start, stop in itertools.pairwise(bounds)
        ]
        blocks = tasks.read_blocks(calls, "ReadSources", self._parallelism, self._report_reading())
        scans = [
            BlockScan.from_json(scan)
            for scan in tasks.run_calls(
                [partial(block_tasks.scan, block) for block in blocks], "ScanColumns"
            )
        ]
        found = [(scan, block) for scan, block in zip(scans, blocks, strict=True) if scan.has_rows]
        # Blocks arrive in any order, and everything after this depends on the order of rows.
        found.sort(key=lambda item: item[0].first_row or 0)
        total = merge_scans(scan for scan, _ in found)
        if not total.num_rows and total.num_unread:
            raise DataError(
                f"{layout.files[0].path}: none of {total.num_unread:,} rows can be read",
                "data.clean.on_error: fail tells what is wrong with the first.",
            )
        if not total.num_rows:
            hint = "Leave the file out, or write it again." if len(layout.files) == 1 else None
            raise DataError(f"{layout.files[0].path}: there are no rows in it", hint)
        without = [file.path for i, file in enumerate(layout.files) if i not in set(total.files)]
        if without:
            self._report(f"note: files without rows: {len(without):,}, such as {without[0]}")
        for line in column_notes.of_joins(total, self._spec.data):
            self._report(line)
        columns = count_of(len(total.columns), "column")
        self._report(f"read {count_of(total.num_rows, 'row')} of {columns}")
        return [block for _, block in found], total

    def _report_reading(self) -> Callable[[int], None]:
        last_s = time.monotonic()

        def on_rows(num_rows: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= self._report_every_s:
                last_s = time.monotonic()
                self._report(f"read {count_of(num_rows, 'row')} so far")

        return on_rows

    def _refuse(self, blocks: Sequence[tasks.BlockRef], cleaner: Cleaner) -> Refused | None:
        """Counts the rows that cannot be used; None if the first one is an error."""
        if self._spec.data.clean.on_error == "fail":
            return None
        finder = cleaner.finder
        calls = [partial(block_tasks.list_faults, block, finder) for block in blocks]
        refused = Refused.merge(tasks.run_calls(calls, "ListFaults"))
        for note in refused.notes(self._layout):
            self._report(note)
        return refused

    def _find_duplicates(self, blocks: Sequence[tasks.BlockRef], num_rows: int) -> Ids:
        if self._spec.data.clean.duplicates == "keep":
            return np.empty(0, dtype=np.int64)
        num_parts = -(-num_rows // _ROWS_PER_DUPLICATE_TASK)
        calls = [
            partial(block_tasks.find_later_copies, list(blocks), part, num_parts)
            for part in range(num_parts)
        ]
        found = tasks.run_calls(calls, "FindDuplicates")
        copies = sorted(itertools.chain.from_iterable(found))
        self._report(f"dropping {count_of(len(copies), 'row')} that repeat an earlier one")
        return np.array(copies, dtype=np.int64)

    def _fit(
        self, blocks: Sequence[tasks.BlockRef], cleaner: Cleaner, ignored: Sequence[str]
    ) -> tuple[Features, dict[str, tuple[TargetMean, ...]], list[tuple[int, ...]], dict[str, int]]:
        """Fits the features.

        Also returns the columns of `fit_out_of_fold`, the rows of each split in each block, and
        the columns of images that are stored as files with the mean bytes of a file.
        """
        # Put once: as an argument of each call, the duplicates would be copied to every task.
        shared = tasks.share(cleaner)
        calls = [partial(block_tasks.measure, block, shared) for block in blocks]
        parts = [RowStatistics.from_json(part) for part in tasks.run_calls(calls, "FitFeatures")]
        total = merge_statistics(parts)
        self._check_splits(total)
        orders = rank_stage.find_orders(blocks, cleaner, sum(total.num_rows))
        features = fit.fit_features(total, cleaner, self._layout, ignored, orders)
        without = fit_out_of_fold(total, features, cleaner.data)
        for note in column_notes.of_statistics(total, cleaner):
            self._report(note)
        splits = ", ".join(
            f"{name} {count:,}" for name, count in zip(SPLITS, total.num_rows, strict=True)
        )
        dropped = f"; {total.num_dropped:,} dropped" if total.num_dropped else ""
        self._report(f"split: {splits}{dropped}")
        self._report(f"features: {describe_features(features)}")
        as_files = choose_columns(self._spec.data.image_storage, features, total)
        if as_files:
            self._report(
                f"images of {', '.join(as_files)} stay files, {sum(as_files.values()):,} bytes on "
                "average, and are decoded in each epoch; data.image_storage: decoded stores pixels"
            )
        return features, without, [part.num_rows for part in parts], as_files

    def _check_splits(self, total: RowStatistics) -> None:
        split = self._spec.data.split
        num_rows = dict(zip(SPLITS, total.num_rows, strict=True))
        is_wanted = {
            "train": True,
            "validation": self._layout.first_validation_id is not None
            or split.validation_fraction > 0,
            "test": self._layout.first_test_id is not None or bool(split.test_fraction),
        }
        for name in SPLITS:
            if is_wanted[name] and not num_rows[name]:
                dropped = f" ({total.num_dropped:,} were dropped)" if total.num_dropped else ""
                message = f"of {sum(total.num_rows):,} rows{dropped} none is left for {name}"
                raise DataError(message, f"Give more rows, or set data.split.{name}_fraction to 0.")

    def _write(
        self,
        blocks: Sequence[tasks.BlockRef],
        plan: Sequence[PlannedShard],
        shared: tuple[Any, ...],
    ) -> dict[str, Any]:
        """Writes all shards, see `block_tasks.write_shard`; returns their entries by name."""
        reference = tasks.share(shared)
        calls = [
            partial(
                block_tasks.write_shard,
                shard,
                [blocks[piece[0]] for piece in shard.pieces],
                self._folder,
                reference,
            )
            for shard in plan
        ]
        quarters = {len(plan) * part // 4 for part in (1, 2, 3)}

        def on_done(num_done: int) -> None:
            if len(plan) >= _MIN_SHARDS_TO_REPORT and num_done in quarters:
                self._report(f"wrote {num_done:,} of {len(plan):,} shards")

        entries = tasks.run_calls(calls, "WriteShards", on_done)
        num_bytes = sum(entry["bytes"] for entry in entries)
        self._report(f"wrote {count_of(len(plan), 'shard')}, {num_bytes / 1e6:,.1f} MB")
        return {shard.name: entry for shard, entry in zip(plan, entries, strict=True)}

    def _take_golden_rows(
        self, blocks: Sequence[tasks.BlockRef], plan: Sequence[PlannedShard], cleaner: Cleaner
    ) -> list[dict[str, Any]]:
        # The first shard of the test split, or of the validation split if there are no test rows.
        held_out = max(plan, key=lambda shard: (shard.split, -shard.index))
        held_out_blocks = [blocks[piece[0]] for piece in held_out.pieces]
        call = partial(block_tasks.take_golden_rows, held_out, held_out_blocks, cleaner)
        return list(tasks.run_calls([call], "GoldenRows")[0])
