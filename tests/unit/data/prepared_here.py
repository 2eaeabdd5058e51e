"""A preparation whose tasks run in this process, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raydc.data import prepare
from raydc.data.prepared import Prepared
from raydc.spec import from_dict, resolve


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


def prepare_here(
    folder: Path, data: dict[str, Any], name: str = "pinned"
) -> tuple[Prepared, list[str]]:
    """Prepares a data set without Ray; also returns the lines that it reports.

    Args:
        folder: Folder that gets the storage.
        data: Section `data` of the spec.
        name: Name of the spec, with which the name of the data set begins.
    """
    spec = from_dict(
        {
            "name": name,
            "seed": 3,
            "storage": str(folder / "storage"),
            "data": data,
            "model": {"name": "linear"},
        }
    )
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raydc.data.tasks.run_calls", run_calls)
        patch.setattr("raydc.data.tasks.read_blocks", read_blocks)
        patch.setattr("ray.get", lambda reference: reference)
        patch.setattr("ray.put", lambda value: value)
        patch.setattr("ray.cluster_resources", lambda: {"CPU": 2})
        return prepare.run(resolve(spec), lines.append), lines
