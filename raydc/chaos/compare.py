"""Compares the end of a disturbed run with that of an undisturbed one. Runs in the driver."""

from __future__ import annotations

from dataclasses import dataclass

import safetensors.torch
import torch

from raydc.chaos import ledger
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.errors import ChaosError, CheckpointError
from raydc.loop.row_order import LengthGroups
from raydc.loop.sampler import Sampler
from raydc.spec import ResolvedSpec
from raydc.storage import Storage, sha256
from raydc.tracking import events


@dataclass(frozen=True)
class RunEnding:
    """How a run ended.

    Attributes:
        weights: sha256 of the file with the last weights.
        checkpoint: Newest checkpoint that verifies.
        losses: Loss by step, in the surviving history.
        row_violations: Rows that were used wrongly, see `ledger.violations`.
    """

    weights: str
    checkpoint: Found
    losses: dict[int, float]
    row_violations: list[str]


def read(
    folder: Storage,
    spec: ResolvedSpec,
    num_rows: int,
    sampler: Sampler | None = None,
    groups: LengthGroups | None = None,
) -> RunEnding:
    """Reads how a run ended.

    Args:
        folder: Run folder with the checkpoints and `metrics.jsonl`.
        spec: Resolved spec of the run, for its seed and batch size.
        num_rows: Training rows of its data set.
        sampler: Says how often each of them must occur in an epoch; None for once.
        groups: Says which of them share a step by their lengths; None for any.

    Raises:
        ChaosError: No checkpoint verifies.
    """
    store = CheckpointStore(folder / "checkpoints", spec.checkpoint.num_to_keep)
    try:
        found = store.require_newest()
    except CheckpointError as error:
        raise ChaosError(f"the run has no end to compare: {error.message}") from error
    history = events.surviving(events.read(folder, "metrics"))
    losses = {record["step"]: record["loss"] for record in history if record["kind"] == "step"}
    batch_size = spec.train.global_batch_size
    rows = ledger.violations(history, spec.seed, num_rows, batch_size, sampler, groups)
    return RunEnding(sha256(found.files["model.safetensors"]), found, losses, rows)


def differences(undisturbed: RunEnding, disturbed: RunEnding) -> list[str]:
    """Describes how two runs differ; empty if they are equal to the last bit."""
    found = []
    steps = undisturbed.losses.keys() | disturbed.losses.keys()
    parted = sorted(
        step for step in steps if undisturbed.losses.get(step) != disturbed.losses.get(step)
    )
    # Every later step differs too, so only the first says where to look.
    if parted:
        step = parted[0]
        values = (
            f"{undisturbed.losses.get(step)} undisturbed, {disturbed.losses.get(step)} disturbed"
        )
        found.append(f"the loss differs from step {step} on: {values}")
    if undisturbed.checkpoint.step != disturbed.checkpoint.step:
        found.append(
            f"it ended after step {disturbed.checkpoint.step}, not {undisturbed.checkpoint.step}"
        )
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = (
            safetensors.torch.load(bytes(e.checkpoint.files[name]))
            for e in (undisturbed, disturbed)
        )
        # Compared by tensor, so that the message can name one.
        names = [
            key for key, tensor in one.items() if key not in other or not _equal(tensor, other[key])
        ]
        if names:
            found.append(
                f"{len(names)} of {len(one)} tensors of {name} differ, the first is {names[0]}"
            )
    return found


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    # Bytes, because == finds -0.0 equal to 0.0, and a NaN different from itself.
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.numpy().tobytes() == other.numpy().tobytes()
    )
