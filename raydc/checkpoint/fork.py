"""A new run that starts with the weights of another one.

Only the weights are taken over: position, optimiser and schedule begin anew, and the features are those of the new
data. What comes out is a checkpoint of step 0, so that a fork that is killed goes on as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor

from raydc import models
from raydc import spec as specs
from raydc.checkpoint import resume
from raydc.checkpoint.state import (
    State,
    constant_files,
    spec_hash,
    state_file,
    state_of,
    unpack_weights,
)
from raydc.checkpoint.store import CheckpointStore, Found, name_of
from raydc.data.prepared import Prepared
from raydc.errors import CheckpointError, RunError, UsageError
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

FILE = "fork.json"


@dataclass(frozen=True)
class Origin:
    """Where a fork comes from.

    Attributes:
        run: Name of the other run.
        step: Steps that it had done.
        uri: Its folder.
        data_hash: The data set that it was trained on.
    """

    run: str
    step: int
    uri: str
    data_hash: str

    def __str__(self) -> str:
        return f"run {self.run!r} after step {self.step:,}"


@dataclass(frozen=True)
class Fork:
    """Weights that a new run starts with, and where they come from."""

    origin: Origin
    weights: dict[str, Tensor]


def load(spec: ResolvedSpec, data: Prepared, runs: Storage, given: str) -> Fork:
    """Reads the weights of another run; nothing is written yet.

    Args:
        spec: The resolved spec of the new run.
        data: Its data set.
        runs: Folder of all runs.
        given: RUN or RUN:STEP; RUN is a name, or a path or URI of a run's folder. Without a step it is its best
            checkpoint, or its newest where none is known to be best.

    Raises:
        UsageError: STEP is no number.
        RunError: There is no such run, or its model is another one.
        CheckpointError: It has no such checkpoint that verifies.
    """
    source, step = _find(runs, given)
    found = _choose(CheckpointStore(source / "checkpoints", 1), step)
    before = yaml.safe_load(found.files["spec.yaml"])
    _refuse_other_model(spec, before)
    section = spec.model.without_weights()  # The fork's weights replace any pretrained ones.
    fresh = models.build(section, data.features.signature, spec.seed).state_dict()
    weights = _fit(fresh, unpack_weights(found), before["name"])
    return Fork(Origin(before["name"], found.step, source.uri, found.meta["data_hash"]), weights)


def begin(fork: Fork, spec: ResolvedSpec, data: Prepared, run_folder: Storage) -> None:
    """Writes the checkpoint that a fork starts from, and where it comes from."""
    files = {
        **constant_files(spec, data.features.to_dict()),
        "model.safetensors": safetensors.torch.save(fork.weights),
        "state.json": state_file(State()),
    }
    meta = {
        "data_hash": data.data_hash,
        "spec_hash": spec_hash(spec),
        "forked_from": vars(fork.origin),
    }
    CheckpointStore(run_folder / "checkpoints", 1).write(0, files, meta)
    run_folder.write_json(FILE, vars(fork.origin))


def origin_of(run_folder: Storage) -> Origin | None:
    """Where a run was forked from, if it was."""
    return Origin(**run_folder.read_json(FILE)) if run_folder.exists(FILE) else None


def _find(runs: Storage, given: str) -> tuple[Storage, int | None]:
    name, colon, step = given.rpartition(":")
    if not colon or step.startswith("//"):
        name, step = given, ""
    if step and not step.isdigit():
        raise UsageError(
            f"--fork {given}: {step!r} is not a number of steps", "Example: --fork digits:500"
        )
    folder = Storage(name) if "/" in name else runs / name
    resume.require_run(folder, runs, name)
    return folder, int(step) if step else None


def _choose(store: CheckpointStore, step: int | None) -> Found:
    if step is not None:
        if step not in store.steps():
            kept = ", ".join(map(str, store.steps())) or "none"
            raise CheckpointError(
                f"{store.folder.uri} has no {name_of(step)}; it has steps: {kept}",
                "Name one of them, or none.",
            )
        return store.read(step)
    newest, skipped = store.newest()
    if newest is None:
        reason = f": {skipped[0].reason}" if skipped else ""
        raise CheckpointError(
            f"{store.folder.uri} holds no checkpoint that verifies{reason}", "Fork another run."
        )
    best = state_of(newest).best_step
    return store.read(best) if best is not None and best in store.steps() else newest


def _refuse_other_model(spec: ResolvedSpec, before: Mapping[str, Any]) -> None:
    changes = specs.differences(before["model"], specs.to_dict(spec)["model"])
    relevant = [f"model.{change}" for change in changes if change.path != "weights"]
    if relevant:
        raise RunError(
            f"run {before['name']!r} has another model:\n    " + "\n    ".join(relevant),
            "A fork keeps the model: make the section equal, or leave --fork out.",
        )


def _fit(fresh: dict[str, Tensor], weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights, with the normalisation of the new data, which is the input layer."""
    for key, tensor in fresh.items():
        if key.startswith("input."):
            continue
        there = weights.get(key)
        if there is None or there.shape != tensor.shape:
            shape = "is missing" if there is None else f"has shape {list(there.shape)}"
            raise RunError(
                f"run {name!r} was trained on rows of another form: {key} {shape} there, {list(tensor.shape)} here",
                "Fork with data of the same columns, shape and classes.",
            )
        fresh[key] = there
    return {key: tensor.contiguous().clone() for key, tensor in fresh.items()}
