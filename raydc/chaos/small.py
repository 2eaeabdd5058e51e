"""The user's spec, small: his model, optimiser, batch size and workers, on as many of his rows as three epochs need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raydc import spec as specs
from raydc.data.prepared import Prepared, load
from raydc.data.shards import Rows, open_rows, write_data_set
from raydc.errors import UsageError
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

LEAST_STEPS = 12
_NUM_EPOCHS = 3
_VALIDATION_ROWS = 512


def rows_of(num_steps: int, batch_size: int, num_shards: int, available: int) -> int:
    """Training rows with which `num_steps` steps are three epochs, the last step of each a smaller one."""
    per_epoch = max(1, num_steps // _NUM_EPOCHS)
    return min(available, (per_epoch - 1) * batch_size + max(num_shards, batch_size // 2))


def make_data(spec: ResolvedSpec, data: Prepared, num_steps: int, folder: Storage) -> Prepared:
    """A data set of the first rows of another.

    Args:
        spec: The user's, resolved.
        data: Prepared from it.
        num_steps: Steps that the run will have.
        folder: Where to.
    """
    train = open_rows(data.folder, "train")
    shards = spec.train.logical_shards
    num_rows = {
        "train": rows_of(num_steps, spec.train.global_batch_size, shards, len(train)),
        "validation": min(_VALIDATION_ROWS, data.num_rows["validation"]),
    }
    splits = {
        split: _first(open_rows(data.folder, split), count)
        for split, count in num_rows.items()
        if count
    }
    write_data_set(folder, data.features, splits, data.folder.read_json("golden_rows.json"))
    return load(folder)


def _first(rows: Rows, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return rows.gather(np.arange(count, dtype=np.int64))


def make_spec(spec: ResolvedSpec, num_steps: int, max_failures: int) -> ResolvedSpec:
    """The spec of a run of `num_steps` steps that writes a checkpoint every few steps and each loss.

    Args:
        spec: The user's, resolved.
        num_steps: At least LEAST_STEPS.
        max_failures: That the run has to survive.

    Raises:
        UsageError: Too few steps to break anything between them.
    """
    if num_steps < LEAST_STEPS:
        raise UsageError(f"--steps {num_steps} is too few", f"Give at least {LEAST_STEPS}.")
    value = specs.to_dict(spec)
    for name in ("sweep", "serve"):
        value.pop(name, None)
    train = value["train"]
    for name in ("epochs", "early_stop"):
        train.pop(name, None)
    train.update(max_steps=num_steps, log_every_steps=1)
    value["checkpoint"] = {"every_steps": max(2, num_steps // 8), "num_to_keep": 2}
    value["fault_tolerance"] = {**value.get("fault_tolerance", {}), "max_failures": max_failures}
    return specs.resolve(specs.from_dict(value))
