"""The position of a run, what it has seen, and how a checkpoint stores both. Runs in each worker.

model.safetensors      weights and buffers
optimizer.safetensors  tensors of optimiser and schedule, and the averaged weights if there are any
optimizer.pt           their plain values, and the places of the tensors; no pickled objects
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
from raydc.checkpoint.store import Found
from raydc.checkpoint.value_tree import join_tensors
from raydc.data.prepared import Prepared
from raydc.errors import CheckpointError
from raydc.spec import ResolvedSpec
from raydc.storage import canonical_json, sha256

# Key of the averaged weights in the state of a step.
AVERAGE = "average"


@dataclass(frozen=True)
class State:
    """The position of a run and what it has seen: `state.json` of a checkpoint.

    Attributes:
        step: Number of completed steps.
        loss_sum: Sum of loss times rows over the current epoch.
        loss_rows: Rows of the current epoch so far.
        best_metric: Best validation metric so far.
        best_step: Completed steps when it was measured.
        best_loss: Validation loss at that step, which decides between equal metrics; None in states
            of older versions, and without a loss.
        epochs_without: Epochs since the last improvement that counts for early stop.
        metrics: Metrics of the last complete epoch.
        reason: Why the run has ended: completed or early_stop; None before.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_rows: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    epochs_without: int = 0
    metrics: dict[str, float | None] | None = None
    reason: str | None = None
    best_loss: float | None = None

    @property
    def mean_loss(self) -> float:
        """Mean loss over the rows of the current epoch; 0 before its first row."""
        return self.loss_sum / max(1, self.loss_rows)

    def after_step(self, num_rows: int) -> State:
        """The state after one more step.

        Args:
            num_rows: Rows of the step, over all workers.
        """
        # A quarter of the time of `dataclasses.replace`, which looks at every field.
        following = object.__new__(State)
        following.__dict__.update(
            self.__dict__, step=self.step + 1, loss_rows=self.loss_rows + num_rows
        )
        return following


@dataclass(frozen=True)
class Parts:
    """The live state of a run, from which a checkpoint is made.

    Attributes:
        state: Position of the run and its scores so far.
        weights: State of the network, by name.
        step_state: State of optimiser and schedule, as `Step.state` returns it.
    """

    state: State
    weights: Mapping[str, Tensor]
    step_state: Any


@dataclass(frozen=True)
class Constants:
    """What all checkpoints of an attempt have in common.

    Attributes:
        files: Content by name.
        meta: JSON values for the manifest.
    """

    files: Mapping[str, bytes]
    meta: Mapping[str, Any]


def constants_of(spec: ResolvedSpec, data: Prepared, **meta: Any) -> Constants:
    """Returns what all checkpoints of an attempt have in common.

    Args:
        spec: The resolved spec, which each checkpoint stores as `spec.yaml`.
        data: The prepared data set, for its features and its hash.
        **meta: More JSON values for the manifest.
    """
    files = {
        "features.json": canonical_json(data.features.to_dict(), indent=2) + b"\n",
        "spec.yaml": yaml.safe_dump(specs.to_dict(spec), sort_keys=False).encode(),
    }
    return Constants(files, {"data_hash": data.data_hash, "spec_hash": spec_hash(spec), **meta})


def spec_hash(spec: ResolvedSpec) -> str:
    """sha256 of a resolved spec."""
    return sha256(canonical_json(specs.to_dict(spec)))


def pack_state(state: State) -> bytes:
    """Content of `state.json`."""
    return canonical_json(asdict(state), indent=2) + b"\n"


def unpack_state(found: Found) -> State:
    """The state in a checkpoint. Raises CheckpointError if another version of raydc wrote it."""
    content = json.loads(found.files["state.json"])
    try:
        return State(**content)
    except TypeError as error:
        raise CheckpointError(f"checkpoint of step {found.step}: state.json: {error}") from error


def unpack_weights(found: Found) -> dict[str, torch.Tensor]:
    """State of the network in a checkpoint, on the CPU."""
    weights: dict[str, torch.Tensor] = safetensors.torch.load(found.files["model.safetensors"])
    return weights


def unpack_model(found: Found) -> dict[str, torch.Tensor]:
    """State of the network that a checkpoint makes a model of: averaged, if the run averages."""
    # A fork starts from a checkpoint of weights alone.
    step = unpack_step(found) if "optimizer.pt" in found.files else {}
    return dict(step[AVERAGE]) if step.get(AVERAGE) else unpack_weights(found)


def unpack_step(found: Found) -> dict[str, Any]:
    """State of optimiser and schedule in a checkpoint, for `Step.load_state`."""
    plain_values = torch.load(
        io.BytesIO(found.files["optimizer.pt"]), weights_only=True, map_location="cpu"
    )
    tensors = safetensors.torch.load(found.files["optimizer.safetensors"])
    state: dict[str, Any] = join_tensors(plain_values, tensors)
    return state
