"""Shrinks a user's spec and data set: the same model, optimiser, batch size and workers, but few
steps on few rows. Runs in the driver."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raydc import spec as specs
from raydc.data.prepared import Prepared, load, read_golden_rows
from raydc.data.shards import Rows, open_rows, write_data_set
from raydc.errors import UsageError
from raydc.features import Inputs
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

LEAST_STEPS = 12
# Three, so that faults fall before, between and after validations.
_NUM_EPOCHS = 3
_VALIDATION_ROWS = 512


def num_train_rows(num_steps: int, batch_size: int, num_shards: int, available: int) -> int:
    """Computes the rows that make three epochs, each with a smaller last step.

    Args:
        num_steps: Steps that the shrunk run will take.
        batch_size: Rows of a full step, over all workers.
        num_shards: Logical shards of a step.
        available: Training rows of the data set.
    """
    # The last step of an epoch has half a batch, but at least one row for each shard.
    per_epoch = max(1, num_steps // _NUM_EPOCHS)
    return min(available, (per_epoch - 1) * batch_size + max(num_shards, batch_size // 2))


def shrink_data(spec: ResolvedSpec, data: Prepared, num_steps: int, folder: Storage) -> Prepared:
    """Writes a data set of the first rows of another.

    Args:
        spec: Resolved spec, for its batch size and logical shards.
        data: Data set to take the rows from.
        num_steps: Steps that the shrunk run will take; decides how many rows are kept.
        folder: Takes the small data set.
    """
    train = open_rows(data.folder, "train")
    shards = spec.train.logical_shards
    num_rows = {
        "train": num_train_rows(num_steps, spec.train.global_batch_size, shards, len(train)),
        "validation": min(_VALIDATION_ROWS, data.num_rows["validation"]),
    }
    splits = {
        split: _first(open_rows(data.folder, split), count)
        for split, count in num_rows.items()
        if count
    }
    write_data_set(folder, data.features, splits, read_golden_rows(data.folder))
    return load(folder)


def _first(rows: Rows, count: int) -> tuple[Inputs, npt.NDArray[Any]]:
    return rows.gather(np.arange(count, dtype=np.int64))


def shrink_spec(spec: ResolvedSpec, num_steps: int, max_failures: int) -> ResolvedSpec:
    """Makes the spec of a short run that checkpoints every few steps and records every loss.

    Args:
        spec: The user's resolved spec.
        num_steps: Steps that the shrunk run will take, at least LEAST_STEPS.
        max_failures: Failures that the run has to survive.

    Raises:
        UsageError: There are too few steps for faults between them.
    """
    if num_steps < LEAST_STEPS:
        raise UsageError(f"--steps {num_steps} is too few", f"Give at least {LEAST_STEPS}.")
    value = specs.to_dict(spec)
    for name in ("sweep", "serve"):
        value.pop(name, None)
    train = value["train"]
    for name in ("epochs", "early_stop"):
        train.pop(name, None)
    # Every loss is compared, so none may be left out of the metrics.
    train.update(max_steps=num_steps, log_every_steps=1)
    if train.get("micro_batch_size") == "auto":
        # The memory that is free differs from run to run, and a number has its own bits.
        train["micro_batch_size"] = max(1, spec.train.most_shard_rows // 2)
    value["checkpoint"] = {"every_steps": max(2, num_steps // 8), "num_to_keep": 2}
    value["fault_tolerance"] = {**value.get("fault_tolerance", {}), "max_failures": max_failures}
    return specs.resolve(specs.from_dict(value))
