"""Whether a run that was broken ended as one that was not."""

from __future__ import annotations

from dataclasses import dataclass

import safetensors.torch
import torch

from raydc.chaos import ledger
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.errors import ChaosError
from raydc.spec import ResolvedSpec
from raydc.storage import Storage, sha256
from raydc.tracking import events


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        weights: sha256 of the file of the last weights.
        checkpoint: The last one.
        losses: Of each step of the history that survives.
        rows: What is wrong with the ledger of rows.
    """

    weights: str
    checkpoint: Found
    losses: dict[int, float]
    rows: list[str]


def read(folder: Storage, spec: ResolvedSpec, num_rows: int) -> Ending:
    """How the run in a folder ended.

    Raises:
        ChaosError: No checkpoint verifies.
    """
    found, _ = CheckpointStore(folder / "checkpoints", spec.checkpoint.num_to_keep).newest()
    if found is None:
        raise ChaosError(f"the run in {folder.uri} has left no checkpoint that verifies")
    history = events.surviving(events.read(folder, "metrics"))
    losses = {record["step"]: record["loss"] for record in history if record["kind"] == "step"}
    rows = ledger.violations(history, spec.seed, num_rows, spec.train.global_batch_size)
    return Ending(sha256(found.files["model.safetensors"]), found, losses, rows)


def differences(undisturbed: Ending, disturbed: Ending) -> list[str]:
    """What a person has to know of how they differ; empty where they are equal to the last bit."""
    found = []
    steps = undisturbed.losses.keys() | disturbed.losses.keys()
    parted = sorted(
        step for step in steps if undisturbed.losses.get(step) != disturbed.losses.get(step)
    )
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
        names = [
            key for key, tensor in one.items() if key not in other or not _equal(tensor, other[key])
        ]
        if names:
            found.append(
                f"{len(names)} of {len(one)} tensors of {name} differ, the first is {names[0]}"
            )
    return found


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.numpy().tobytes() == other.numpy().tobytes()
    )
