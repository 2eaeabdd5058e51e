"""Where a run is, what it has seen, and how both lie in a checkpoint.

model.safetensors      weights and buffers
optimizer.safetensors  tensors of optimiser and schedule
optimizer.pt           their plain values, and which tensor belongs where; read with `weights_only=True`
state.json             `State`
spec.yaml              the resolved spec
features.json          the fitted features
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from raydc import spec as specs
from raydc.checkpoint.snapshot import join
from raydc.checkpoint.store import Found
from raydc.errors import CheckpointError
from raydc.spec import ResolvedSpec
from raydc.spec.resolved import ResolvedTrain
from raydc.spec.train import ALL_SCORES
from raydc.storage import canonical_json, sha256


@dataclass(frozen=True)
class State:
    """Where a run is and what it has seen: `state.json` of a checkpoint.

    Attributes:
        step: Steps done.
        loss_sum: Loss times rows of this epoch so far.
        loss_rows: Rows of this epoch so far.
        best_metric: Best validation metric.
        best_step: Steps done when it was measured.
        epochs_without: Epochs since the last improvement that counts for early stop.
        metrics: Of the last epoch that ended.
        reason: Why the run has ended: completed, early_stop or stopped; None while it goes on.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_rows: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    epochs_without: int = 0
    metrics: dict[str, float | None] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Parts:
    """The live state of a run: what a checkpoint is made of."""

    state: State
    weights: Mapping[str, Tensor]
    step_state: Any


def judge(state: State, record: dict[str, Any], train: ResolvedTrain, total_steps: int) -> State:
    """What the end of an epoch means: is it the best so far, and does the run go on? Pure.

    Args:
        state: Before.
        record: Of the epoch, with the metric by its name.
        train: Section `train` of a resolved spec.
        total_steps: Steps of the whole run.
    """
    metric = record.get(train.metric) if record["split"] == "validation" else None
    best, best_step, without = state.best_metric, state.best_step, state.epochs_without + 1
    sign = 1.0 if train.mode == "max" else -1.0
    gain = (
        float("inf") if best is None else sign * ((metric if metric is not None else best) - best)
    )
    if metric is not None and gain > 0:
        least = train.early_stop.min_delta if train.early_stop else 0.0
        without = 0 if gain > least else without
        best, best_step = metric, state.step
    reason = None
    if state.step >= total_steps:
        reason = "completed"
    elif train.early_stop is not None and without >= train.early_stop.patience:
        reason = "early_stop"
    names = (*ALL_SCORES, "loss", "train_loss")
    return State(
        step=state.step,
        best_metric=best,
        best_step=best_step,
        epochs_without=without,
        metrics={name: record[name] for name in names if name in record},
        reason=reason,
    )


def state_of(found: Found) -> State:
    """The state that a checkpoint holds. Raises CheckpointError where another version of raydc wrote it."""
    content = json.loads(found.files["state.json"])
    try:
        return State(**content)
    except TypeError as error:
        raise CheckpointError(f"checkpoint of step {found.step}: state.json: {error}") from error


def spec_hash(spec: ResolvedSpec) -> str:
    """sha256 of a resolved spec."""
    return sha256(canonical_json(specs.to_dict(spec)))


def constant_files(spec: ResolvedSpec, features: dict[str, Any]) -> dict[str, bytes]:
    """The files that are the same in all checkpoints of a run.

    Args:
        spec: The resolved spec.
        features: Of `Features.to_dict`.
    """
    return {
        "features.json": canonical_json(features, indent=2) + b"\n",
        "spec.yaml": yaml.safe_dump(specs.to_dict(spec), sort_keys=False).encode(),
    }


def state_file(state: State) -> bytes:
    """`state.json`."""
    return canonical_json(asdict(state), indent=2) + b"\n"


def unpack_weights(found: Found) -> dict[str, torch.Tensor]:
    """State of the network, on the CPU."""
    weights: dict[str, torch.Tensor] = safetensors.torch.load(found.files["model.safetensors"])
    return weights


def unpack_step(found: Found) -> dict[str, Any]:
    """State of optimiser and schedule, for `Step.load_state`."""
    rest = torch.load(
        io.BytesIO(found.files["optimizer.pt"]), weights_only=True, map_location="cpu"
    )
    state: dict[str, Any] = join(rest, safetensors.torch.load(found.files["optimizer.safetensors"]))
    return state
