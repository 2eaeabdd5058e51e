"""A task pool with Ray Data's scheduling, behind `raydc.data.tasks`.

Called in the driver; the calls run in Ray tasks.

`run_calls` processes no data: it wraps each call in a `Datasource` whose only row holds the result
as JSON text, because rows of Ray Data are Arrow tables and a result is a small record without a
schema. `ray.remote` would run the same calls with less ceremony. Ray Data is used all the same, so
that a preparation has one scheduler: it submits tasks as its budget of CPUs and object store memory
allows, the same budget that the blocks of `read_blocks` count against, instead of all at once; it
shows them as a named operator in Ray's dashboard; and it reports them as they are done.
"""

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
from raydc.errors import REPORT_IT, DataError, last_line, unexpected

ReadCall = Callable[[], Iterable[pa.Table]]

# Errors that code inside a task raised; others of Ray are about nodes and memory.
_FAULTS = (ray.exceptions.RayTaskError, ray.exceptions.UserCodeException)
_RESULT_SCHEMA = pa.schema(
    [("index", pa.int64()), ("value", pa.string()), ("error", pa.string()), ("hint", pa.string())]
)


class _CallDatasource(Datasource):  # type: ignore[misc]
    """A source with one read task per call, whatever parallelism Ray Data asks for.

    A call knows what it reads, so that Ray Data has nothing to divide.
    """

    def __init__(self, calls: Sequence[ReadCall], name: str) -> None:
        super().__init__()
        self._calls = calls
        self._name = name

    def get_name(self) -> str:
        return self._name

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(call, unknown) for call in self._calls]


def read_blocks(
    calls: Sequence[ReadCall],
    name: str,
    num_blocks: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> list[ray.ObjectRef]:
    """Does what `tasks.read_blocks` says, and keeps the tables in the object store."""
    with quiet_ray_data():
        data = ray.data.read_datasource(
            _CallDatasource(calls, name), override_num_blocks=num_blocks or len(calls)
        )
        blocks: list[ray.ObjectRef] = []
        num_rows = 0
        # The public API hands out rows. References leave them in the object store, which keeps them
        # while this list exists.
        for bundle in data.iter_internal_ref_bundles():
            blocks += bundle.block_refs
            num_rows += bundle.num_rows() or 0
            if on_rows is not None:
                on_rows(num_rows)
        return blocks


def stream_tables(calls: Sequence[ReadCall], name: str) -> ray.data.Dataset:
    """A lazy data set of the rows that calls yield; it is consumed inside `quiet_ray_data`.

    Args:
        calls: Each yields any number of tables.
        name: Name of the operator in Ray Data, for its logs and its dashboard.
    """
    return ray.data.read_datasource(_CallDatasource(calls, name), override_num_blocks=len(calls))


def run_calls(
    calls: Sequence[Callable[[], Any]], name: str, on_done: Callable[[int], None] | None = None
) -> list[Any]:
    """Does what `tasks.run_calls` says, each call in a task."""
    if not calls:
        return []
    values: list[Any] = [None] * len(calls)
    errors: dict[int, tuple[str, str | None]] = {}
    with quiet_ray_data():
        source = _CallDatasource(
            [_as_read_call(index, call, name) for index, call in enumerate(calls)], name
        )
        data = ray.data.read_datasource(source, override_num_blocks=len(calls))
        # Rows arrive in any order, which is why each holds the index of its call.
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


def _as_read_call(index: int, call: Callable[[], Any], name: str) -> ReadCall:
    def read() -> Iterator[pa.Table]:
        value, error, hint = "null", None, None
        try:
            value = json.dumps(call())
        except DataError as data_error:
            # An exception would end the whole run at the first task that raises. As a value it
            # waits for the others, so that the first in the order of the rows can be reported.
            error, hint = data_error.message, data_error.hint
        except ray.exceptions.RayError:
            # A lost block or node, and nothing that the rows caused.
            raise
        except Exception as fault:  # noqa: BLE001 (reported as a value, like the one above)
            error, hint = f"{name} failed: {unexpected(fault)}", REPORT_IT
        row = {"index": index, "value": value, "error": error, "hint": hint}
        yield pa.Table.from_pylist([row], schema=_RESULT_SCHEMA)

    return read


@contextlib.contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Silences the progress bars and the log of Ray Data, and raises the error that a task raised.

    Raises:
        RaydcError: A task raised it; Ray's own exception around it is dropped.
        DataError: A task raised another error.
    """
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    level = logger.level
    shows_bars, prints_plan = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars = context.print_on_execution_start = False
    # Ray Data logs the traceback of a failed task, whose message is shown to the user below.
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = engine.find_cause(error)
        if cause is None and isinstance(error, _FAULTS):
            raise DataError(f"a task of Ray Data failed: {last_line(error)}", REPORT_IT) from error
        if cause is None:
            raise
        raise type(cause)(cause.message, cause.hint) from None
    finally:
        context.enable_progress_bars = shows_bars
        context.print_on_execution_start = prints_plan
        logger.setLevel(level)
