"""Where the work of a preparation runs: in tasks of Ray Data, or in the driver if there is little.

A task of Ray Data costs more than some megabytes of rows: its process starts and imports for
seconds, and each stage plans, schedules and gathers. `run_placed` holds for a whole preparation;
the same code runs on the same rows, so the content does not depend on it. See
`raydc.data.small_jobs`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any, TypeVar

import pyarrow as pa

from raydc.errors import REPORT_IT, DataError, RaydcError, unexpected

T = TypeVar("T")
ReadCall = Callable[[], Iterable[pa.Table]]
BlockRef = Any  # A ray.ObjectRef of a pa.Table, or a `_Kept` one.

_is_in_process: ContextVar[bool] = ContextVar("is_in_process", default=False)


@dataclass(frozen=True)
class _Kept:
    """Stands in this process for a reference to the object store."""

    value: Any


def connected() -> None:
    """Does nothing: for callers that have connected to Ray already."""


# Further rows are moved to files that are mapped: the kernel may drop their pages.
_MAX_KEPT_BYTES = 256 * 1024 * 1024
# Small files may hold large rows: pictures of one colour, or windows that overlap. So many bytes
# are too much work for one process.
_MAX_MAPPED_BYTES = 4 * 1024 * 1024 * 1024
_num_kept_bytes: ContextVar[int] = ContextVar("num_kept_bytes", default=0)


class _TooLargeError(Exception):
    """The rows of a small source are too many for the driver."""


def run_placed(is_small: bool, connect: Callable[[], object], work: Callable[[], T]) -> T:
    """Does work whose calls run in this process if there is little to do, else in Ray tasks.

    Work whose rows turn out to be large is begun again with Ray.

    Args:
        is_small: Whether there is so little work that tasks would only cost time.
        connect: Connects to Ray; called only if Ray is needed.
        work: Calls `read_blocks`, `run_calls` and the others. It leaves nothing behind if it fails.
    """
    if is_small:
        before, kept_before = _is_in_process.set(True), _num_kept_bytes.set(0)
        try:
            return work()
        except _TooLargeError:
            pass
        finally:
            _is_in_process.reset(before)
            _num_kept_bytes.reset(kept_before)
    connect()
    return work()


def fetch(reference: Any) -> Any:
    """The value of a reference that `read_blocks` or `share` has given; in the driver or a task."""
    if isinstance(reference, _Kept):
        return reference.value
    import ray

    return ray.get(reference)


def share(value: Any) -> Any:
    """A reference to a value that many calls need.

    As an argument of each call it would be copied to every task.
    """
    if _is_in_process.get():
        return _Kept(value)
    import ray

    return ray.put(value)


def num_cpus() -> int:
    """CPUs that the calls have together."""
    if _is_in_process.get():
        return 1
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def read_blocks(
    calls: Sequence[ReadCall],
    name: str,
    num_blocks: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> list[BlockRef]:
    """Runs calls that yield tables of rows, and keeps the tables.

    Args:
        calls: Each yields any number of tables.
        name: Name of the operator in Ray Data, for its logs and its dashboard.
        num_blocks: Blocks to aim at: Ray Data splits the tables of a call to reach it. None means
            one per call.
        on_rows: Called with the number of rows read so far, whenever more have arrived.

    Returns:
        References to the tables, in the order of arrival.

    Raises:
        RaydcError: A call raised it.
    """
    if not _is_in_process.get():
        from raydc.data import ray_tasks

        return ray_tasks.read_blocks(calls, name, num_blocks, on_rows)
    blocks, num_rows = [], 0
    with named_faults(name):
        for call in calls:
            for table in call():
                blocks.append(_Kept(_keep(table)))
                num_rows += table.num_rows
                if on_rows is not None:
                    on_rows(num_rows)
    return blocks


def _keep(table: pa.Table) -> pa.Table:
    """The same rows, in memory or in a file that no name leads to any more."""
    before = _num_kept_bytes.get()
    _num_kept_bytes.set(before + table.nbytes)
    if before + table.nbytes <= _MAX_KEPT_BYTES:
        return table
    # Not more than half of what is free: other programs need some as well.
    most = min(_MAX_MAPPED_BYTES, shutil.disk_usage(gettempdir()).free // 2)
    if before + table.nbytes > most or _is_in_memory(gettempdir()):
        raise _TooLargeError
    with NamedTemporaryFile(prefix="raydc-rows-") as file:
        # A stream, because the dictionaries of a column may differ between its chunks.
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        file.flush()
        # The mapping outlives the name, and ends with the last array.
        with pa.memory_map(file.name) as mapped:
            return pa.ipc.open_stream(mapped).read_all()


def _is_in_memory(folder: str, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether files of a folder are memory that the kernel cannot drop, as on tmpfs."""
    try:
        entries = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    except OSError:
        return False
    parents = {str(path) for path in (Path(folder).resolve() / "_").parents}
    # A later mount hides an earlier one.
    found = [(len(place), at, kind) for at, (place, kind) in enumerate(entries) if place in parents]
    return max(found, default=(0, 0, ""))[2] in ("tmpfs", "ramfs")


def run_calls(
    calls: Sequence[Callable[[], Any]], name: str, on_done: Callable[[int], None] | None = None
) -> list[Any]:
    """Runs calls that return one small JSON value each.

    Args:
        calls: Calls without arguments, each in one task.
        name: Name of the operator in Ray Data, for its logs and its dashboard.
        on_done: Called with the number of calls done so far, after each.

    Returns:
        Their values, in the order of the calls.

    Raises:
        DataError: The error of the first call, in that order, that failed; independent of the
            parallelism.
    """
    if not _is_in_process.get():
        from raydc.data import ray_tasks

        return ray_tasks.run_calls(calls, name, on_done)
    values = []
    with named_faults(name):
        for call in calls:
            # Through JSON as from a task: callers must not get tuples or NumPy's numbers here only.
            values.append(json.loads(json.dumps(call())))
            if on_done is not None:
                on_done(len(values))
    return values


@contextlib.contextmanager
def named_faults(name: str) -> Iterator[None]:
    """Turns an unexpected error of the block into one that says what failed, as Ray's tasks do.

    Args:
        name: What the block does.

    Raises:
        DataError: The block raised an error that is none of raydc's, nor of the storage.
    """
    try:
        yield
    # The command line explains a full disk, here as elsewhere in this process.
    except (RaydcError, OSError, _TooLargeError):
        raise
    except Exception as fault:
        raise DataError(f"{name} failed: {unexpected(fault)}", REPORT_IT) from fault
