"""Tasks of Ray Data that run in the test's own process, one after the other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest


def run_calls(
    calls: Sequence[Callable[[], Any]],
    name: str,
    on_done: Callable[[int], None] = lambda num_done: None,
) -> list[Any]:
    """Runs calls as `tasks.run_calls` does: values pass through JSON as with Ray."""
    values = []
    for call in calls:
        values.append(json.loads(json.dumps(call())))
        on_done(len(values))
    return values


def read_blocks(calls: Sequence[Callable[[], Any]], *_: Any) -> list[Any]:
    """Reads blocks as `tasks.read_blocks` does."""
    tables = [table for call in calls for table in call()]
    return tables[::-1]  # The order of the blocks must not matter.


@contextlib.contextmanager
def tasks_here() -> Iterator[pytest.MonkeyPatch]:
    """Runs tasks in this process while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raydc.data.tasks.run_calls", run_calls)
        patch.setattr("raydc.data.tasks.read_blocks", read_blocks)
        patch.setattr("raydc.data.tasks.fetch", lambda reference: reference)
        patch.setattr("raydc.data.tasks.share", lambda value: value)
        patch.setattr("raydc.data.tasks.num_cpus", lambda: 2)
        yield patch
