"""Scores of a bundle on held-out rows.

`run` runs in a driver. With few rows `_Evaluator` runs there too, otherwise in a pool of Ray Data,
each of whose processes loads the bundle once.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raydc import bundle
from raydc.data import model_pool, prepared, tasks
from raydc.data.shards import open_rows
from raydc.errors import DataError, Say
from raydc.models import evaluation_tables
from raydc.models.allocator import begin_work
from raydc.models.forecast_scores import ForecastScores, last_values
from raydc.models.judged import Judged
from raydc.models.row_slices import parse_slices
from raydc.models.scores import Scores
from raydc.spec.metric import known_names, own_names
from raydc.storage import Storage

Batch = dict[str, npt.NDArray[Any]]

# Torchmetrics costs much per update and little per row, and a row of predictions is small.
_ROWS_PER_UPDATE = 65_536
# Begins the names of columns of a table that say which slice a row is in.
_SLICE = "slice:"
# Column of a table with the last value before a forecast.
_LAST = "last:value"


def run(
    bundle_folder: Storage,
    data_folder: Storage,
    split: str = "test",
    say: Say = print,
    slices: Sequence[str] = (),
    connect: Callable[[], object] = tasks.connected,
) -> dict[str, Any]:
    """Scores a bundle on a split of a prepared data set.

    Args:
        bundle_folder: Bundle to score; its hashes are verified first.
        data_folder: Prepared data set with the bundle's features.
        split: train, validation or test.
        say: Shows a line, such as one about waiting for a CPU or about files that are left out.
        slices: Columns to score by value, as `row_slices.parse_slices` reads them.
        connect: Connects to Ray; called only if there are too many rows for this process. Default:
            Ray is connected.

    Returns:
        `num_rows`, all metrics of the task (`raydc.spec.metric`), and `undefined`, the reason for
        each that is None; for classes and labels also `support` (rows of each) and `per_class`, and
        for classes `confusion_matrix` (rows: true ones, columns: predicted ones). Of windows of a
        series also the errors by step, see `ForecastScores.to_dict`. With slices also `slices`: the
        same metrics by column and slice.

    Raises:
        UsageError: A column cannot be sliced as given.
        CheckpointError: The bundle does not verify.
        DataError: The data set does not verify, was prepared with other features, or has no rows
            in this split.
        ClusterError: No CPU became free.
    """
    loaded = bundle.load(bundle_folder)
    rows = open_rows(data_folder, split)
    if prepared.load(data_folder).features != loaded.features:
        raise DataError(
            f"{data_folder.uri} was prepared with different features than {bundle_folder.uri}"
        )
    if not len(rows):
        raise DataError(
            f"{data_folder.uri} has no {split} rows", "Set data.split, or evaluate another split."
        )
    parsed = parse_slices(slices, loaded.features)
    scores = _no_scores(loaded, len(rows))
    by_slice = {
        (one.column, name): _no_scores(loaded, len(rows)) for one in parsed for name in one.names
    }
    confusion = evaluation_tables.confusion_matrix(loaded.features)
    forecasts = ForecastScores()
    arguments = (data_folder, split, len(rows), slices)
    num_batches = math.ceil(len(rows) / model_pool.batch_rows(loaded.features))
    num_bytes = len(rows) * loaded.features.signature.row_bytes
    if model_pool.fits_here(loaded.spec, loaded.features, num_bytes, num_batches):
        batches = _judge_here(_Evaluator(loaded, *arguments), len(rows))
    else:
        connect()
        batches = _judge_in_pool(loaded, (bundle_folder, *arguments), len(rows), say)
    for index, batch in enumerate(batches):
        placed = {one.column: batch.pop(_SLICE + one.column) for one in parsed}
        if _LAST in batch:
            last_B = batch.pop(_LAST)
            forecasts.add(index, batch["predicted_B"], batch["expected_B"], last_B)
        found = Judged(**{name: torch.tensor(part) for name, part in batch.items()})
        scores.add(found, index)
        for one in parsed:
            for place, name in enumerate(one.names):
                chosen = torch.from_numpy(np.flatnonzero(placed[one.column] == place))
                by_slice[one.column, name].add(found.take(chosen), index)
        if confusion is not None:
            evaluation_tables.count(confusion, found.expected_B, found.predicted_B)
    result = scores.compute()
    return {
        "num_rows": len(rows),
        **result.to_dict(),
        **forecasts.to_dict(),
        **evaluation_tables.by_class(confusion, scores, loaded.features),
        **evaluation_tables.by_slice(by_slice),
    }


def _no_scores(loaded: bundle.Bundle, num_rows: int) -> Scores:
    """Empty scores for all metrics of the task, and the user's own."""
    train, task = loaded.spec.train, loaded.features.signature.task
    own = own_names(train.metrics, train.metric)
    names = (*known_names(task, loaded.spec.data.query), *own)
    return Scores(loaded.features, names, num_rows, ndcg_k=train.ndcg_k)


def _judge_here(evaluator: _Evaluator, num_rows: int) -> Iterator[Batch]:
    """Judges all rows in this process, in the batches of a pool."""
    size = model_pool.batch_rows(evaluator.bundle.features)
    # In the updates of a pool: sums of metrics are taken in the same order.
    for first in range(0, num_rows, _ROWS_PER_UPDATE):
        last = min(first + _ROWS_PER_UPDATE, num_rows)
        with tasks.named_faults("evaluate"):
            parts = [
                evaluator({"id": np.arange(start, min(start + size, last))})
                for start in range(first, last, size)
            ]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _judge_in_pool(
    loaded: bundle.Bundle, arguments: tuple[Any, ...], num_rows: int, say: Say
) -> Iterator[Batch]:
    """Judges rows in processes of Ray; `arguments` are those of `_PoolEvaluator` but the device."""
    import ray

    batch_rows = model_pool.batch_rows(loaded.features)
    num_batches = math.ceil(num_rows / batch_rows)
    pool = model_pool.wait_for_pool(loaded.spec, num_batches, "evaluate", say)
    with model_pool.preserve_order():
        # Ray Data passes positions only; each process reads its rows from the shards.
        judged = ray.data.range(num_rows, override_num_blocks=num_batches).map_batches(
            _PoolEvaluator,
            fn_constructor_args=(pool.device, *arguments),
            batch_size=batch_rows,
            **pool.options(),
        )
        yield from judged.iter_batches(batch_size=_ROWS_PER_UPDATE, batch_format="numpy")


class _Evaluator:
    """Scores rows of a split, given their positions."""

    def __init__(
        self,
        loaded: bundle.Bundle,
        data_folder: Storage,
        split: str,
        num_rows: int,
        slices: Sequence[str],
    ) -> None:
        self.bundle = loaded
        self.rows = open_rows(data_folder, split)
        self.scores = _no_scores(self.bundle, num_rows)
        self.slices = parse_slices(slices, self.bundle.features)

    def __call__(self, batch: Batch) -> Batch:
        positions = batch["id"].astype(np.int64)
        x, y = self.rows.gather(positions)
        queries = None if self.rows.queries is None else self.rows.queries[positions]
        outputs_BK = torch.from_numpy(self.bundle.forward(x))
        judged = self.scores.judge(outputs_BK, torch.from_numpy(y), queries)
        # A table has no columns of width 0.
        parts = {name: part.numpy() for name, part in vars(judged).items() if part.numel()}
        if (last_B := last_values(self.bundle.features, x)) is not None:
            parts[_LAST] = last_B
        return {**parts, **{_SLICE + one.column: one.positions(x) for one in self.slices}}


class _PoolEvaluator(_Evaluator):
    """An evaluator that loads the bundle in its own process."""

    def __init__(self, device: str, bundle_folder: Storage, *arguments: Any) -> None:
        begin_work()
        super().__init__(bundle.load(bundle_folder, device), *arguments)
