"""Work that Ray Data does: calls spread over the cluster, each giving tables or one small record."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from raydc import engine
from raydc.errors import DataError

Read = Callable[[], Iterable[pa.Table]]
BlockRef = Any  # A ray.ObjectRef of a pa.Table.


class _Calls(Datasource):  # type: ignore[misc]
    """One read task per call, whatever parallelism Ray Data asks for: a call says itself what it covers."""

    def __init__(self, calls: Sequence[Read], name: str) -> None:
        super().__init__()
        self._calls = calls
        self._name = name

    def get_name(self) -> str:
        return self._name

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(call, unknown) for call in self._calls]


def read(
    calls: Sequence[Read],
    name: str,
    num_blocks: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> list[BlockRef]:
    """Runs calls that give tables of rows.

    Args:
        calls: Each gives any number of tables.
        name: What Ray Data calls the operator.
        num_blocks: Blocks to aim at; Ray Data splits the tables of a call to get as many.
        on_rows: Is told how many rows are read, as they are.

    Returns:
        References to the tables in the object store, in no order.

    Raises:
        RaydcError: As a call raised it.
    """
    with quiet_ray_data():
        data = ray.data.read_datasource(
            _Calls(calls, name), override_num_blocks=num_blocks or len(calls)
        )
        blocks: list[BlockRef] = []
        num_rows = 0
        for bundle in data.iter_internal_ref_bundles():
            blocks += (
                bundle.block_refs
            )  # As long as they are referred to, they stay in the object store.
            num_rows += bundle.num_rows() or 0
            if on_rows is not None:
                on_rows(num_rows)
        return blocks


def dataset(calls: Sequence[Read], name: str) -> ray.data.Dataset:
    """Rows that flow when they are asked for (see `quiet_ray_data`): for what need not stay in the object store."""
    return ray.data.read_datasource(_Calls(calls, name), override_num_blocks=len(calls))


def run(
    calls: Sequence[Callable[[], Any]], name: str, on_done: Callable[[int], None] | None = None
) -> list[Any]:
    """Runs calls that each give one small JSON value.

    Args:
        calls: The work.
        name: What Ray Data calls the operator.
        on_done: Is told how many calls are done, as they are.

    Returns:
        Their values, in the order of the calls.

    Raises:
        RaydcError: As the first call in that order raised it, whatever the parallelism.
    """
    if not calls:
        return []
    values: list[Any] = [None] * len(calls)
    errors: dict[int, tuple[str, str | None]] = {}
    with quiet_ray_data():
        source = _Calls([_record(index, call) for index, call in enumerate(calls)], name)
        data = ray.data.read_datasource(source, override_num_blocks=len(calls))
        for num_done, row in enumerate(data.iter_rows(), start=1):
            if row["error"] is None:
                values[row["index"]] = json.loads(row["value"])
            else:
                errors[row["index"]] = (row["error"], row["hint"])
            if on_done is not None:
                on_done(num_done)
    if errors:
        message, hint = errors[min(errors)]
        raise DataError(message, hint)
    return values


def _record(index: int, call: Callable[[], Any]) -> Read:
    # A DataError travels as a value, so that the first one in the order of the rows can be told.
    def read_one() -> Iterator[pa.Table]:
        value, error, hint = "null", None, None
        try:
            value = json.dumps(call())
        except DataError as data_error:
            error, hint = data_error.message, data_error.hint
        columns = [
            ("index", pa.int64()),
            ("value", pa.string()),
            ("error", pa.string()),
            ("hint", pa.string()),
        ]
        row = {"index": index, "value": value, "error": error, "hint": hint}
        yield pa.Table.from_pylist([row], schema=pa.schema(columns))

    return read_one


@contextlib.contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Ray Data without its bars and its log, and with the error that a task meant.

    Raises:
        RaydcError: As a task raised it.
    """
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    level, bars, words = (
        logger.level,
        context.enable_progress_bars,
        context.print_on_execution_start,
    )
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = engine.find_cause(error)
        if cause is None:
            raise
        raise type(cause)(cause.message, cause.hint) from None
    finally:
        context.enable_progress_bars, context.print_on_execution_start = bars, words
        logger.setLevel(level)
