"""Bundles over data sets of any size, with Ray Data: scores on held-out rows, predictions for
files.

`run` and `predict_file` run in a driver, `_Evaluator` and `_Predictor` in the processes of a pool,
each of which loads the bundle once. Rows pass through `Features.apply` and `Bundle.forward`, as in
the endpoint.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raydc import bundle
from raydc.bundle import answer_columns
from raydc.data import (
    list_values,
    model_pool,
    prediction_source,
    prepared,
    sources,
    tasks,
    values,
)
from raydc.data.layout import Layout
from raydc.data.shards import open_rows
from raydc.data.table_file import TableWriter
from raydc.errors import DataError, Say
from raydc.features import Features
from raydc.models import evaluation_tables
from raydc.models.forecast_scores import ForecastScores, last_values
from raydc.models.judged import Judged
from raydc.models.row_slices import parse_slices
from raydc.models.scores import Scores
from raydc.spec.metric import known_names, own_names
from raydc.storage import Storage

# Bytes of the inputs of one batch. The activations of a network need some tens of times as much.
_BATCH_BYTES = 8 * 1024 * 1024
_MAX_BATCH_ROWS = 1024
# Torchmetrics costs much per update and little per row, and a row of predictions is small.
_ROWS_PER_UPDATE = 65_536
# Begins the names of columns of a table that say which slice a row is in.
_SLICE = "slice:"
# Column of a table with the last value before a forecast.
_LAST = "last:value"
# Columns of a table that stands for an error; see `_Predictor`.
_ERROR, _HINT = "__error", "__hint"


def run(
    bundle_folder: Storage,
    data_folder: Storage,
    split: str = "test",
    say: Say = print,
    slices: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores a bundle on a split of a prepared data set; needs a connected Ray.

    Args:
        bundle_folder: Bundle to score; its hashes are verified first.
        data_folder: Prepared data set with the bundle's features.
        split: train, validation or test.
        say: Shows a line, such as one about waiting for a CPU or about files that are left out.
        slices: Columns to score by value, as `row_slices.parse_slices` reads them.

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
    batch_rows = _batch_rows(loaded.features)
    num_batches = math.ceil(len(rows) / batch_rows)
    pool = model_pool.wait_for_pool(loaded.spec, num_batches, "evaluate", say)
    with model_pool.preserve_order():
        import ray

        # Ray Data passes positions only; each process reads its rows from the shards.
        judged = ray.data.range(len(rows), override_num_blocks=num_batches).map_batches(
            _Evaluator,
            fn_constructor_args=(bundle_folder, data_folder, split, len(rows), slices, pool.device),
            batch_size=batch_rows,
            **pool.options(),
        )
        batches = judged.iter_batches(batch_size=_ROWS_PER_UPDATE, batch_format="numpy")
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
                confusion.update(found.predicted_B, found.expected_B)
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


class _Evaluator:
    """Scores rows of a split, given their positions."""

    def __init__(
        self,
        bundle_folder: Storage,
        data_folder: Storage,
        split: str,
        num_rows: int,
        slices: Sequence[str],
        device: str,
    ) -> None:
        self.bundle = bundle.load(bundle_folder, device)
        self.rows = open_rows(data_folder, split)
        self.scores = _no_scores(self.bundle, num_rows)
        self.slices = parse_slices(slices, self.bundle.features)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
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


def _batch_rows(features: Features) -> int:
    """Rows of a batch, so that its inputs fit into `_BATCH_BYTES`."""
    signature = features.signature
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(1, signature.row_bytes)))


def predict_file(bundle_folder: Storage, source: str, output: str, say: Say = print) -> int:
    """Predicts every row of a source; needs a connected Ray.

    The output has the rows of the source in their order, with its columns (images are left out),
    `prediction` (a class, or a number in units of the target) and, for a classification, `score`
    (its probability). Of several labels, `prediction` has them with `data.label_delimiter` between
    them, and `score:LABEL` the probability of each.

    Args:
        bundle_folder: Bundle that predicts; its spec says how the source is read.
        source: Path, folder, glob or URI of raw rows, in any format that training reads.
        output: File to write: `.csv`, `.parquet` or `.jsonl`, as a local path or a URI. It appears
            whole or not at all.
        say: Shows a line, such as one about waiting for a CPU or about files that are left out.

    Returns:
        Number of rows.

    Raises:
        UsageError: The name of the output has no known format.
        CheckpointError: The bundle does not verify.
        DataError: A source or a row cannot be used; the message names its place.
        ClusterError: No CPU became free.
    """
    loaded = bundle.load(bundle_folder)
    writer = TableWriter(output)
    data = prediction_source.section(loaded.spec.data, source)
    layout = sources.locate(data)
    for note in layout.notes:
        say(note)
    reader = prediction_source.reader(loaded.features, layout, data)
    calls = reader.pieces(layout.files)
    batch_rows = _batch_rows(loaded.features)
    pool = model_pool.wait_for_pool(loaded.spec, len(calls), "predict", say)
    with writer, model_pool.preserve_order():
        predicted = tasks.stream_tables(calls, "Read").map_batches(
            _Predictor,
            fn_constructor_args=(bundle_folder, layout, pool.device),
            batch_size=batch_rows,
            batch_format="pyarrow",
            zero_copy_batch=True,
            **pool.options(),
        )
        num_rows = _write(writer, predicted.iter_batches(batch_size=None, batch_format="pyarrow"))
        if not num_rows:
            raise DataError(f"{layout.files[0].path}: there are no rows in it")
        return num_rows


def _write(writer: TableWriter, tables: Iterable[pa.Table]) -> int:
    num_rows = 0
    for table in tables:
        if _ERROR in table.column_names:
            error = table.to_pylist()[0]
            raise DataError(error[_ERROR], error[_HINT])
        writer.write(table)
        num_rows += table.num_rows
    return num_rows


class _Predictor:
    """Adds predictions to tables of raw rows."""

    def __init__(self, bundle_folder: Storage, layout: Layout, device: str) -> None:
        self.bundle = bundle.load(bundle_folder, device)
        self.layout = layout

    def __call__(self, table: pa.Table) -> pa.Table:
        # Ray Data passes on only the text of an exception, so this one travels as a table.
        try:
            return self._predict(table)
        except DataError as error:
            return pa.table({_ERROR: [error.message], _HINT: pa.array([error.hint], pa.string())})

    def _predict(self, table: pa.Table) -> pa.Table:
        names = [name for name in table.column_names if not values.is_internal(name)]
        if taken := set(answer_columns.names_of(self.bundle)) & set(names):
            raise DataError(
                f"{self.layout.files[0].path} has a column {min(taken)!r} already", "Rename it."
            )
        columns = {
            name: _raw(values.column_of(table, name))
            for name in self.bundle.features.columns
            if name in names
        }
        try:
            answers = self.bundle.predict_columns(columns)
        except DataError as error:
            raise _with_place(error, self.layout, values.row_ids(table)) from error
        result = table.select(
            [name for name in names if _is_printable(table.schema.field(name).type)]
        )
        return answer_columns.add(list_values.as_json_texts(result), self.bundle, answers)


def _is_printable(column_type: pa.DataType) -> bool:
    """Whether a column can be written to any format of output."""
    return values.kind_of(column_type) != "image" and not pa.types.is_binary(column_type)


def _raw(column: pa.Array) -> Any:
    """Converts a column to what `Features.apply` takes."""
    if values.kind_of(column.type) != "image":
        return column.to_pylist()
    # Images are decoded without the missing ones, which are put back as None.
    present = iter(values.to_images(column.drop_null()))
    return [next(present) if is_there else None for is_there in column.is_valid().to_pylist()]


def _with_place(error: DataError, layout: Layout, row_ids: npt.NDArray[np.int64]) -> DataError:
    """Replaces the position of a row in the batch by its place in the sources."""
    match = re.match(r"rows\[(\d+)\](?:\.| has )", error.message)
    if match is None:
        return DataError(error.message, error.hint)
    place = layout.describe_row(int(row_ids[int(match[1])]))
    return DataError(f"{place}: {error.message[match.end() :]}", error.hint)
