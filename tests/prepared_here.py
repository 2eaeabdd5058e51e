"""A preparation whose tasks run in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks_here import read_blocks, tasks_here

from raydc.data import prepare
from raydc.data.prepared import Prepared
from raydc.spec import from_dict, resolve

MODEL_OF_TASK = {"language_modelling": "decoder"}


def cut_blocks(num_rows: int) -> Callable[..., list[Any]]:
    """A `read_blocks` that cuts blocks of a number of rows."""

    def read(calls: Sequence[Callable[[], Any]], *_: Any) -> list[Any]:
        return [
            table.slice(start, num_rows)
            for table in read_blocks(calls)
            for start in range(0, table.num_rows, num_rows)
        ]

    return read


def prepare_here(
    folder: Path, data: dict[str, Any], name: str = "pinned", rows_per_block: int | None = None
) -> tuple[Prepared, list[str]]:
    """Prepares a data set without Ray; also returns the lines that it reports.

    Args:
        folder: Folder that gets the storage.
        data: Section `data` of the spec, or a whole spec.
        name: Name of the spec, with which the name of the data set begins.
        rows_per_block: Rows of each block; None leaves them as the readers make them.
    """
    model = {"name": MODEL_OF_TASK.get(data.get("task", ""), "linear")}
    sections = data if "data" in data else {"data": data, "model": model}
    storage = str(folder / "storage")
    spec = from_dict({**sections, "name": name, "seed": 3, "storage": storage})
    lines: list[str] = []
    with tasks_here() as patch:
        if rows_per_block is not None:
            patch.setattr("raydc.data.tasks.read_blocks", cut_blocks(rows_per_block))
        return prepare.run(resolve(spec), lines.append), lines
