"""An inspection whose tasks run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_here import tasks_here

from raydc.data import inspection
from raydc.data.inspection import Inspection
from raydc.spec import from_dict, resolve


def inspect_here(folder: Path, data: dict[str, Any], seed: int = 3) -> Inspection:
    """Inspects a data set without Ray.

    Args:
        folder: Folder of the storage, which stays empty.
        data: Section `data` of the spec.
        seed: Seed of the spec.
    """
    spec = from_dict(
        {
            "name": "seen",
            "seed": seed,
            "storage": str(folder / "storage"),
            "data": data,
            "model": {"name": "linear"},
        }
    )
    with tasks_here():
        return inspection.run(resolve(spec), lambda line: None)
