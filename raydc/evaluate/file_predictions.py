"""Predictions for files of raw rows.

`predict_file` runs in a driver. With few rows `_Predictor` runs there too, otherwise in a pool of
Ray Data, each of whose processes loads the bundle once. Rows pass through `Features.apply` and
`Bundle.forward`, as in the endpoint; those of a language model through `file_completions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raydc import bundle
from raydc.bundle import answer_columns
from raydc.data import (
    model_pool,
    prediction_source,
    small_jobs,
    sources,
    tasks,
    values,
)
from raydc.data.ahead import make_ahead, map_ahead
from raydc.data.layout import Layout
from raydc.data.table_file import TableWriter
from raydc.engine import usable_cpus
from raydc.errors import DataError, Say, UsageError
from raydc.evaluate.file_completions import (
    ROWS_PER_SLOT,
    CompletionOptions,
    CompletionPredictor,
    check_options,
    check_prompts,
)
from raydc.evaluate.table_predictor import TablePredictor, raise_error
from raydc.features import Numeric
from raydc.features.coded_texts import CodedTexts
from raydc.models.allocator import begin_work
from raydc.spec.language import LANGUAGE
from raydc.spec.model import Builder
from raydc.storage import Storage

# Beyond these, the threads would mostly wait for Python's lock.
_MAX_THREADS = 4
# A byte of a prompt is as much work as so many bytes of a text that is classified: tokens of an
# answer follow, and each takes a pass of its own.
_WORK_OF_PROMPTS = 400
_BYTES_OF_PROMPT = 100


def predict_file(
    bundle_folder: Storage,
    source: str,
    output: str,
    say: Say = print,
    connect: Callable[[], object] = tasks.connected,
    completions: CompletionOptions | None = None,
) -> int:
    """Predicts every row of a source.

    The output has the rows of the source in their order, with its columns (images are left out),
    `prediction` (a class, or a number in units of the target) and, for a classification, `score`
    (its probability). Of several labels, `prediction` has them with `data.label_delimiter` between
    them, and `score:LABEL` the probability of each. A language model adds what
    `CompletionPredictor.names` says.

    Args:
        bundle_folder: Bundle that predicts; its spec says how the source is read.
        source: Path, folder, glob or URI of raw rows, in any format that training reads.
        output: File to write: `.csv`, `.parquet` or `.jsonl`, as a local path or a URI. It appears
            whole or not at all.
        say: Shows a line, such as one about waiting for a CPU or about files that are left out.
        connect: Connects to Ray; called only if the source is too large for this process. Default:
            Ray is connected.
        completions: What is asked for behind each prompt, if it is a language model.

    Returns:
        Number of rows.

    Raises:
        UsageError: The name of the output has no known format; or the model does not answer what
            is asked for.
        SpecError: Its network has fewer positions than are asked for.
        CheckpointError: The bundle does not verify.
        DataError: A source or a row cannot be used; the message names its place.
        ClusterError: No CPU became free.
    """
    threads = bundle.NUM_THREADS if completions is None else completions.num_threads
    loaded = bundle.load(bundle_folder, num_threads=threads)
    options = _options_of(loaded, completions)
    writer = TableWriter(output)
    data = prediction_source.section(loaded.spec.data, source)
    layout = sources.locate(data)
    for note in layout.notes:
        say(note)
    texts = [] if options is None or options.holds_messages(loaded) else [options.column_of(loaded)]
    reader = prediction_source.reader(loaded.features, layout, data, texts)
    calls = reader.pieces(layout.files)
    if options is not None:
        check_prompts(loaded, layout, options, calls)
    num_bytes = small_jobs.weighted_bytes([layout])
    work = (
        _with_rows(layout, loaded, len(calls), num_bytes)
        if options is None
        else _with_prompts(layout, options, num_bytes)
    )
    if small_jobs.is_small(layout, data) and model_pool.fits_here(
        loaded.spec, loaded.features, work.num_bytes, work.num_batches
    ):
        tables = _predict_here(work.kind(loaded, *work.arguments), calls)
    else:
        connect()
        tables = _predict_in_pool(loaded, bundle_folder, work, calls, say)
    with writer:
        num_rows = _write(writer, tables)
        if not num_rows:
            raise DataError(f"{layout.files[0].path}: there are no rows in it")
        return num_rows


def _options_of(
    loaded: bundle.Bundle, completions: CompletionOptions | None
) -> CompletionOptions | None:
    """What is asked for behind prompts; None of a model that predicts rows."""
    if loaded.features.signature.task != LANGUAGE:
        if completions is None:
            return None
        message = f"{loaded.spec.name} predicts rows and continues no texts"
        raise UsageError(message, "Leave out the options of completions.")
    options = completions or CompletionOptions()
    check_options(loaded, options)
    return options


class _Work(NamedTuple):
    """What is done with the rows of a source.

    Attributes:
        kind: Class of the predictor.
        arguments: Arguments of that class behind the bundle.
        batch_rows: Rows that a process of a pool gets at a time.
        num_batches: Approximate number of these batches.
        num_bytes: Bytes of rows that a network computes once which are as much work.
    """

    kind: type[TablePredictor]
    arguments: tuple[Any, ...]
    batch_rows: int
    num_batches: int
    num_bytes: float


def _with_rows(layout: Layout, loaded: bundle.Bundle, num_calls: int, num_bytes: float) -> _Work:
    rows = model_pool.batch_rows(loaded.features)
    return _Work(_Predictor, (layout,), rows, num_calls, num_bytes)


def _with_prompts(layout: Layout, options: CompletionOptions, num_bytes: float) -> _Work:
    rows = ROWS_PER_SLOT * options.generation.slots
    num_batches = int(num_bytes / _BYTES_OF_PROMPT / rows)
    arguments = (layout, options)
    return _Work(CompletionPredictor, arguments, rows, num_batches, num_bytes * _WORK_OF_PROMPTS)


def _predict_here(predictor: TablePredictor, calls: Sequence[tasks.ReadCall]) -> Iterator[pa.Table]:
    """Predicts the rows that calls yield in this process: reads, computes and writes at once."""
    size = model_pool.batch_rows(predictor.bundle.features)
    tables = make_ahead(table for call in calls for table in call())
    pieces = (
        table.slice(start, size) for table in tables for start in range(0, table.num_rows, size)
    )
    predicted = map_ahead(predictor, pieces, _num_threads(predictor.bundle))
    with tasks.named_faults("predict"):
        yield from predicted


def _num_threads(loaded: bundle.Bundle) -> int:
    """Threads that predict at the same time.

    Columns and small networks keep one CPU busy, most of the time without Python's lock. Larger
    networks use several by themselves, and a network of the user's own may not expect threads.
    """
    is_table = loaded.features.signature.kind == "vector"
    if not is_table or isinstance(loaded.spec.model, Builder):
        return 1
    return min(usable_cpus.count(), _MAX_THREADS)


def _predict_in_pool(
    loaded: bundle.Bundle,
    bundle_folder: Storage,
    work: _Work,
    calls: Sequence[tasks.ReadCall],
    say: Say,
) -> Iterator[pa.Table]:
    """Predicts in processes of Ray."""
    from raydc.data import ray_tasks

    pool = model_pool.wait_for_pool(loaded.spec, work.num_batches, "predict", say)
    with model_pool.preserve_order():
        predicted = ray_tasks.stream_tables(calls, "Read").map_batches(
            _PoolPredictor,
            fn_constructor_args=(
                (bundle_folder, pool.device, loaded.num_threads),
                work.kind,
                work.arguments,
            ),
            batch_size=work.batch_rows,
            batch_format="pyarrow",
            zero_copy_batch=True,
            **pool.options(),
        )
        yield from predicted.iter_batches(batch_size=None, batch_format="pyarrow")


def _write(writer: TableWriter, tables: Iterable[pa.Table]) -> int:
    num_rows = 0
    for table in tables:
        raise_error(table)
        writer.write(table)
        num_rows += table.num_rows
    return num_rows


class _Predictor(TablePredictor):
    """Adds predictions to tables of raw rows. See `TablePredictor`."""

    def names(self) -> list[str]:
        """Names of the columns. See `TablePredictor.names`."""
        return answer_columns.names_of(self.bundle)

    def answer(self, table: pa.Table, shown: pa.Table) -> pa.Table:
        """Adds the columns. See `TablePredictor.answer`."""
        features = self.bundle.features
        columns = {
            name: _raw(
                values.column_of(table, name),
                isinstance(column, Numeric),
                features.missing_values,
            )
            for name, column in features.columns.items()
            if name in table.column_names
        }
        values_BK = features.values(self.bundle.forward(features.apply_given(columns)))
        return answer_columns.add(shown, self.bundle, values_BK)


class _PoolPredictor:
    """A predictor that loads the bundle in its own process.

    Args:
        source: Arguments of `bundle.load`.
        kind: Class of the predictor.
        arguments: Arguments of that class behind the bundle.
    """

    def __init__(
        self,
        source: tuple[Storage, str, int],
        kind: type[TablePredictor],
        arguments: tuple[Any, ...],
    ) -> None:
        begin_work()
        self._predictor = kind(bundle.load(*source), *arguments)

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._predictor(table)


def _raw(column: pa.Array, is_numeric: bool, missing_values: Sequence[str]) -> Any:
    """Converts a column to what `Features.apply` takes.

    Args:
        column: Raw values.
        is_numeric: Whether the model reads them as numbers.
        missing_values: Strings that mean "missing".
    """
    if is_numeric and (numbers_B := _numbers(column, missing_values)) is not None:
        return numbers_B
    if pa.types.is_string(column.type):
        # A list would hold an object of Python for each cell.
        encoded = column.dictionary_encode(null_encoding="encode")
        return CodedTexts(encoded.dictionary.to_pylist(), np.asarray(encoded.indices))
    if values.kind_of(column.type) != "image":
        return column.to_pylist()
    # Images are decoded without the missing ones, which are put back as None.
    present = iter(values.to_images(column.drop_null()))
    return [next(present) if is_there else None for is_there in column.is_valid().to_pylist()]


def _numbers(column: pa.Array, missing_values: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Numbers of a column, read at once; None if its cells have to be looked at one by one."""
    # An all-null column of Parquet has no type that a text could be compared with.
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    kind = values.kind_of(column.type)
    # A decimal becomes a number where that of a request does, so that both have the same bits.
    if kind not in ("number", "text") or pa.types.is_decimal(column.type):
        return None
    if kind == "text" and pc.any(pc.is_in(column, pa.array(missing_values, column.type))).as_py():
        return None
    parsed = values.parse_numbers(column)
    # The first cell that is no number has to be named.
    return None if parsed.wrong.any() else parsed.values
