"""Bundles over data sets of any size, with Ray Data: scores on held-out rows, and predictions for files.

Each process of the pool loads the bundle once; rows go through `Features.apply` and `Bundle.forward`, as they do
in the endpoint.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raydc import bundle
from raydc.data import sources, tasks, values
from raydc.data.readers import Reader
from raydc.data.shards import open_rows
from raydc.data.sources import Layout
from raydc.data.table_file import TableWriter
from raydc.errors import DataError
from raydc.features import Features
from raydc.models.scores import Scores
from raydc.spec import ResolvedSpec
from raydc.spec.sections import Data
from raydc.storage import Storage

# A batch is as many rows as fit here as inputs; what a network makes of them is some tens of times as large.
_BATCH_BYTES = 8 * 1024 * 1024
_MAX_BATCH_ROWS = 1024
# A process takes seconds to start; it is worth it for so many batches.
_BATCHES_PER_PROCESS = 8
_ROWS_PER_UPDATE = 65_536
_PREDICTION, _SCORE = "prediction", "score"
_ERROR, _HINT = "__error", "__hint"


def run(bundle_folder: Storage, data_folder: Storage, split: str = "test") -> dict[str, Any]:
    """Scores a bundle on a split of a prepared data set; needs a connected Ray.

    Args:
        bundle_folder: A bundle.
        data_folder: A prepared data set with the bundle's features.
        split: train, validation or test.

    Returns:
        `num_rows` and the metrics of `raydc.models.scores.Scores`; for a classification also `support` (rows of each
        class) and `confusion_matrix` (rows: true classes, columns: predicted ones).

    Raises:
        CheckpointError: The bundle does not verify.
        DataError: The data set does not verify, was prepared with other features, or has no rows there.
    """
    loaded = bundle.load(bundle_folder)
    rows = open_rows(data_folder, split)
    if Features.from_dict(data_folder.read_json("features.json")) != loaded.features:
        raise DataError(
            f"{data_folder.uri} was prepared with other features than {bundle_folder.uri}"
        )
    if not len(rows):
        raise DataError(
            f"{data_folder.uri} has no {split} rows", "Set data.split, or evaluate another split."
        )
    scores = Scores(loaded.features)
    confusion = _confusion_matrix(loaded.features)
    batch_rows = _batch_rows(loaded.features)
    with _in_order():
        import ray

        judged = ray.data.range(
            len(rows), override_num_blocks=math.ceil(len(rows) / batch_rows)
        ).map_batches(
            _Evaluator,
            fn_constructor_args=(bundle_folder, data_folder, split, _device(loaded.spec)),
            batch_size=batch_rows,
            **_pool(loaded.spec, math.ceil(len(rows) / batch_rows)),
        )
        for batch in judged.iter_batches(batch_size=_ROWS_PER_UPDATE, batch_format="numpy"):
            predicted, expected = torch.tensor(batch["predicted"]), torch.tensor(batch["expected"])
            scores.add(predicted, expected, torch.tensor(batch["loss"].sum(), dtype=torch.float64))
            if confusion is not None:
                confusion.update(predicted, expected)
    return {"num_rows": len(rows), **scores.compute(), **_by_class(confusion, loaded.features)}


def _confusion_matrix(features: Features) -> Any:
    from torchmetrics.classification import MulticlassConfusionMatrix

    return (
        MulticlassConfusionMatrix(features.signature.num_outputs)
        if features.signature.classes
        else None
    )


def _by_class(confusion: Any, features: Features) -> dict[str, Any]:
    if confusion is None:
        return {}
    matrix: list[list[int]] = confusion.compute().tolist()
    support = {name: sum(row) for name, row in zip(features.signature.classes, matrix, strict=True)}
    return {"support": support, "confusion_matrix": matrix}


class _Evaluator:
    """Judges rows of a split by their positions."""

    def __init__(
        self, bundle_folder: Storage, data_folder: Storage, split: str, device: str
    ) -> None:
        self.bundle = bundle.load(bundle_folder, device)
        self.rows = open_rows(data_folder, split)
        self.scores = Scores(self.bundle.features)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        x, y = self.rows.gather(batch["id"].astype(np.int64))
        outputs_BK = torch.from_numpy(self.bundle.forward(x))
        predicted, expected, loss = self.scores.judge(outputs_BK, torch.from_numpy(y))
        share = np.full(len(y), float(loss) / len(y))
        return {"predicted": predicted.numpy(), "expected": expected.numpy(), "loss": share}


# Batch prediction -------------------------------------------------------------------------------------------


def predict_file(bundle_folder: Storage, source: str, output: str) -> int:
    """Predicts every row of a source; needs a connected Ray.

    The output has the rows of the source in their order, with its columns (images are left out), `prediction`
    (a class, or a number in units of the target) and, for a classification, `score` (its probability).

    Args:
        bundle_folder: A bundle.
        source: Path, folder, glob or URI of raw rows, in any format that training takes.
        output: A file to write: `.csv`, `.parquet` or `.jsonl`, on a local disk or as a URI. It appears whole or
            not at all.

    Returns:
        Number of rows.

    Raises:
        UsageError: The output's name says no format.
        CheckpointError: The bundle does not verify.
        DataError: A source or a row that cannot be used, by its place.
    """
    loaded = bundle.load(bundle_folder)
    writer = TableWriter(output)
    data = _reading(loaded.spec.data, source)
    layout = sources.locate(data)
    calls = Reader.of(layout, data).pieces(layout.files)
    batch_rows = _batch_rows(loaded.features)
    with writer, _in_order():
        predicted = tasks.dataset(calls, "Read").map_batches(
            _Predict,
            fn_constructor_args=(bundle_folder, layout, _device(loaded.spec)),
            batch_size=batch_rows,
            batch_format="pyarrow",
            zero_copy_batch=True,
            **_pool(loaded.spec, len(calls)),
        )
        return _write(writer, predicted.iter_batches(batch_size=None, batch_format="pyarrow"))


def _reading(data: Data, source: str) -> Data:
    """How training read its rows, with another source; no row is left out, and excluded columns are shown."""
    columns = {**data.features.columns, **dict.fromkeys(data.features.exclude, "categorical")}
    features = data.features.model_copy(update={"exclude": [], "columns": columns})
    clean = data.clean.model_copy(update={"duplicates": "keep"})
    return data.model_copy(
        update={"source": source, "format": "auto", "clean": clean, "features": features}
    )


def _write(writer: TableWriter, tables: Iterable[pa.Table]) -> int:
    num_rows = 0
    for table in tables:
        if _ERROR in table.column_names:
            error = table.to_pylist()[0]
            raise DataError(error[_ERROR], error[_HINT])
        writer.write(table)
        num_rows += table.num_rows
    return num_rows


class _Predict:
    """Adds predictions to tables of raw rows."""

    def __init__(self, bundle_folder: Storage, layout: Layout, device: str) -> None:
        self.bundle = bundle.load(bundle_folder, device)
        self.layout = layout

    def __call__(self, table: pa.Table) -> pa.Table:
        # Ray Data gives the text of an exception only, so this one travels as a table.
        try:
            return self._predict(table)
        except DataError as error:
            return pa.table({_ERROR: [error.message], _HINT: pa.array([error.hint], pa.string())})

    def _predict(self, table: pa.Table) -> pa.Table:
        names = [name for name in table.column_names if not values.internal(name)]
        if taken := {_PREDICTION, _SCORE} & set(names):
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
            raise _placed(error, self.layout, values.row_ids(table)) from error
        result = table.select(
            [name for name in names if _can_be_shown(table.schema.field(name).type)]
        )
        for name, key in ((_PREDICTION, "label"), (_PREDICTION, "value"), (_SCORE, "score")):
            if key in answers[0]:
                result = result.append_column(name, pa.array([answer[key] for answer in answers]))
        return result


def _can_be_shown(column_type: pa.DataType) -> bool:
    return values.kind_of(column_type) != "image" and not pa.types.is_binary(column_type)


def _raw(column: pa.Array) -> Any:
    """A column as `Features.apply` takes it."""
    if values.kind_of(column.type) != "image":
        return column.to_pylist()
    present = iter(values.images_of(column.drop_null()))
    return [next(present) if is_there else None for is_there in column.is_valid().to_pylist()]


def _placed(error: DataError, layout: Layout, row_ids: npt.NDArray[np.int64]) -> DataError:
    """The error with the place of its row in the sources instead of in the batch."""
    match = re.match(r"rows\[(\d+)\]\.", error.message)
    if match is None:
        return DataError(error.message, error.hint)
    place = layout.place(int(row_ids[int(match[1])]))
    return DataError(f"{place}: {error.message[match.end() :]}", error.hint)


# Processes --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _in_order() -> Iterator[None]:
    """Ray Data gives rows in their order, whichever process is done first."""
    from ray.data import DataContext

    options = DataContext.get_current().execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        with tasks.quiet_ray_data(), warnings.catch_warnings():
            # `max_restarts` below has no other way in yet.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            yield
    finally:
        options.preserve_order = before


def _batch_rows(features: Features) -> int:
    signature = features.signature
    row_bytes = math.prod(signature.shape) * np.dtype(signature.dtype).itemsize
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes))


def _device(spec: ResolvedSpec) -> str:
    import ray

    return "cuda" if spec.scaling.use_gpu and ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def _pool(spec: ResolvedSpec, num_batches: int) -> dict[str, Any]:
    """Options of `map_batches`: as many processes as there is work for, at most one per CPU or GPU."""
    import ray

    unit = "GPU" if _device(spec) == "cuda" else "CPU"
    most = int(ray.cluster_resources().get(unit, 1))
    size = max(1, min(most, num_batches // _BATCHES_PER_PROCESS))
    options: dict[str, Any] = {"num_gpus": 1} if unit == "GPU" else {"num_cpus": 1}
    if len(ray.nodes()) == 1:
        # Nothing but the process itself can be lost here, and Ray warns of every actor that may restart.
        options["max_restarts"] = 0
    return {"compute": ray.data.ActorPoolStrategy(min_size=1, max_size=size), **options}
