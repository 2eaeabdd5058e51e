"""Looks at the data of a spec as a preparation would see it, and says what is odd. In the driver.

It reads the sources, decides the kinds of columns and splits the rows with the code of
`raydc.data.prepare_stages`; statistics are counted in tasks of Ray Data, or here if the
source is small. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from raydc.data import (
    inspect_tasks,
    linear_identity,
    row_copies,
    small_jobs,
    snapshot_source,
    target_power,
    tasks,
)
from raydc.data.clean import TRAIN, Cleaner
from raydc.data.column_profile import ColumnProfile, RowProfile, merge_profiles
from raydc.data.layout import Layout
from raydc.data.linear_identity import Identity
from raydc.data.prepare_stages import PrepareStages
from raydc.data.row_copies import RowCopies
from raydc.data.shards import SPLITS
from raydc.data.target_power import Binning
from raydc.errors import Say, UsageError
from raydc.spec import ResolvedSpec
from raydc.spec.language import LANGUAGE
from raydc.storage import Storage

_ROWS_PER_COPIES_TASK = 4_000_000
_REPORT_EVERY_S = 5.0
# Splits with a lower index are usually considered to be the same.
_MIN_PSI = 0.1


@dataclass(frozen=True)
class InspectedColumn:
    """A column and what stands out in it.

    Attributes:
        name: Name of the column in the source.
        kind: `numeric`, `categorical` or `image`.
        is_target: Whether the spec predicts it.
        profiles: Counts and statistics of its cells, for each of `SPLITS`.
        power: AUC or R2 of the target predicted by this column alone; None if it cannot be
            computed.
        psi: Population stability index against the training rows, by split.
        ks: Kolmogorov-Smirnov distance against the training rows, by split.
        drifted: Splits that differ by more than chance.
    """

    name: str
    kind: str
    is_target: bool
    profiles: tuple[ColumnProfile, ...]
    power: float | None
    psi: dict[str, float]
    ks: dict[str, float]
    drifted: tuple[str, ...]

    @property
    def whole(self) -> ColumnProfile:
        """Profile over all splits."""
        total = self.profiles[0]
        for other in self.profiles[1:]:
            total = total.plus(other)
        return total


@dataclass(frozen=True)
class Inspection:
    """What an inspection has found.

    Attributes:
        name: Name of the spec.
        source: Format, files and size of the source, in words.
        task: `classification` or `regression`.
        measure: `AUC` or `R2`, in which the power of a column is given.
        num_rows: Rows of each split.
        num_dropped: Rows in no split.
        columns: The target, then the inputs in the order of the source.
        excluded: Columns that the spec leaves out, which were not looked at.
        copies: Counts of rows with equal inputs.
        copy_places: Places of a pair of equal inputs, by `first/second` split.
        conflict_places: Places of some pairs of equal inputs with different targets.
        identity: A weighted sum of columns that equals the target; None if none was found.
        identity_rows: Rows in which it holds, and rows that have all its values.
        notes: What a preparation would say, one line each.
    """

    name: str
    source: str
    task: str
    measure: str
    num_rows: dict[str, int]
    num_dropped: int
    columns: tuple[InspectedColumn, ...]
    excluded: tuple[str, ...]
    copies: RowCopies
    copy_places: dict[str, tuple[str, str]]
    conflict_places: tuple[tuple[str, str], ...]
    identity: Identity | None
    identity_rows: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def target(self) -> InspectedColumn:
        """The column that is to be predicted."""
        return self.columns[0]


def run(
    spec: ResolvedSpec,
    report: Say,
    parallelism: int | None = None,
    connect: Callable[[], object] = tasks.connected,
) -> Inspection:
    """Inspects the data of a spec: with Ray Data, or in this process if the source is small.

    Args:
        spec: A resolved spec. Every node must reach its sources.
        report: Prints a line of progress.
        parallelism: Number of tasks of Ray Data that read the sources; None chooses by the size of
            the source and the CPUs of the cluster.
        connect: Connects to Ray; called only if the source is not small. Default: Ray is connected.

    Raises:
        UsageError: The data are the texts of a language model.
        DataError: A source, a column or a row that a preparation would refuse.
    """
    if spec.data.task == LANGUAGE:
        raise UsageError("raydc inspect is for rows of a table", "raydc prepare counts the tokens.")
    notes: list[str] = []

    def listen(line: str) -> None:
        report(line)
        if line.startswith("note: "):
            notes.append(line.removeprefix("note: "))

    # Nothing is written below this folder, except snapshots of sources that are not files.
    folder = Storage(spec.storage) / "data"
    with snapshot_source.located(spec.data, folder, report) as (data, layout):
        located = spec.model_copy(update={"data": data})

        def inspect() -> Inspection:
            notes.clear()
            stages = PrepareStages(located, layout, folder, listen, parallelism, _REPORT_EVERY_S)
            blocks, cleaner, columns = stages.open_sources()
            return _Inspector(located, layout, blocks, cleaner).inspect(columns.ignored, notes)

        is_small = parallelism is None and small_jobs.is_small(layout, data)
        return tasks.run_placed(is_small, connect, inspect)


class _Inspector:
    """Counts what the blocks of one data set hold."""

    def __init__(
        self, spec: ResolvedSpec, layout: Layout, blocks: Sequence[Any], cleaner: Cleaner
    ) -> None:
        self._spec = spec
        self._layout = layout
        self._blocks = blocks
        self._cleaner = cleaner
        # In the object store: as an argument of each call it would be copied to every task.
        self._shared = tasks.share(cleaner)

    def inspect(self, excluded: Sequence[str], notes: Sequence[str]) -> Inspection:
        data = self._spec.data
        is_regression = data.task == "regression"
        kinds = {data.target: "numeric" if is_regression else "categorical", **self._cleaner.kinds}
        profile = merge_profiles(
            [
                RowProfile.from_json(part)
                for part in self._over_blocks(inspect_tasks.profile, "ProfileColumns", kinds)
            ]
        )
        power = self._measure_power(profile)
        num_rows = sum(profile.num_rows) + profile.num_dropped
        copies = self._find_copies(num_rows)
        identity, identity_rows = self._find_identity(num_rows) if is_regression else (None, (0, 0))
        num_bytes = sum(file.num_bytes for file in self._layout.files)
        files = "1 file" if len(self._layout.files) == 1 else f"{len(self._layout.files):,} files"
        return Inspection(
            self._spec.name,
            f"{self._layout.format}, {files}, {num_bytes / 1e6:,.1f} MB",
            data.task,
            "R2" if is_regression else "AUC",
            dict(zip(SPLITS, profile.num_rows, strict=True)),
            profile.num_dropped,
            tuple(
                _inspect_column(name, kind, profile.columns[name], power.get(name), data.target)
                for name, kind in kinds.items()
            ),
            tuple(excluded),
            copies,
            {pair: self._places(ids) for pair, ids in copies.examples.items()},
            tuple(map(self._places, copies.conflict_examples)),
            identity,
            identity_rows,
            tuple(notes),
        )

    def _over_blocks(self, call: Any, name: str, *arguments: Any) -> list[Any]:
        calls = [partial(call, block, self._shared, *arguments) for block in self._blocks]
        return tasks.run_calls(calls, name)

    def _places(self, ids: tuple[int, int]) -> tuple[str, str]:
        first, second = map(self._layout.describe_row, ids)
        return first, second

    def _measure_power(self, profile: RowProfile) -> dict[str, float | None]:
        """AUC or R2 of the target by each column alone."""
        binnings = {
            name: Binning.of(kind, profile.columns[name][TRAIN])
            for name, kind in self._cleaner.kinds.items()
            if kind in ("numeric", "categorical")
        }
        if not binnings:
            return {}
        is_regression = self._spec.data.task == "regression"
        counts = profile.columns[self._spec.data.target][TRAIN].categories
        ranked = sorted(counts, key=lambda name: (-counts[name], name))
        classes = [] if is_regression else ranked[: target_power.MAX_CLASSES]
        tables = target_power.merge_tables(
            self._over_blocks(inspect_tasks.count_bins, "CountBins", binnings, classes)
        )
        judge = target_power.r2_of if is_regression else target_power.auc_of
        return {name: judge(table) for name, table in tables.items()}

    def _find_copies(self, num_rows: int) -> RowCopies:
        # Digests stay in the object store: those of all rows may be many.
        digests = tasks.read_blocks(
            [partial(inspect_tasks.digest, block, self._shared) for block in self._blocks],
            "DigestRows",
        )
        num_parts = max(1, -(-num_rows // _ROWS_PER_COPIES_TASK))
        calls = [
            partial(inspect_tasks.find_copies, digests, part, num_parts)
            for part in range(num_parts)
        ]
        return row_copies.merge_copies(tasks.run_calls(calls, "FindCopies"))

    def _find_identity(self, num_rows: int) -> tuple[Identity | None, tuple[int, int]]:
        names = [name for name, kind in self._cleaner.kinds.items() if kind == "numeric"]
        if not names:
            return None, (0, 0)
        stride = max(1, num_rows // linear_identity.SAMPLE_ROWS)
        parts = self._over_blocks(inspect_tasks.read_numbers, "ReadNumbers", names, stride)
        columns = {
            name: np.concatenate([np.asarray(part[name], dtype=np.float64) for part in parts])
            for name in (*names, self._spec.data.target)
        }
        identity = linear_identity.guess(columns, columns.pop(self._spec.data.target))
        if identity is None:
            return None, (0, 0)
        found = self._over_blocks(inspect_tasks.count_identity, "CountIdentity", identity)
        holds, of = (sum(column) for column in zip(*found, strict=True))
        # A sum that holds in the sample but in few of all rows was a coincidence.
        return (identity, (holds, of)) if 2 * holds >= of else (None, (0, 0))


def _inspect_column(
    name: str,
    kind: str,
    profiles: tuple[ColumnProfile, ...],
    power: float | None,
    target: str,
) -> InspectedColumn:
    psi: dict[str, float] = {}
    ks: dict[str, float] = {}
    drifted = []
    for split, other in zip(SPLITS[1:], profiles[1:], strict=True):
        drift = target_power.drift_of(profiles[TRAIN], other)
        if drift is None:
            continue
        psi[split] = drift.psi
        distance = target_power.ks_of(profiles[TRAIN], other)
        if distance is not None:
            ks[split] = distance
        if drift.psi > max(_MIN_PSI, drift.by_chance):
            drifted.append(split)
    return InspectedColumn(name, kind, name == target, profiles, power, psi, ks, tuple(drifted))
