"""A new run that starts with the weights of another one. Runs in the driver.

Only the weights are taken over: position, optimiser and schedule are new, and the features are
those of the new data. The result is a checkpoint of step 0, so that a fork that is killed resumes
as one.
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
from raydc.checkpoint import run_name
from raydc.checkpoint.state import (
    State,
    constants_of,
    pack_state,
    unpack_model,
    unpack_state,
)
from raydc.checkpoint.store import CheckpointStore, Found, name_of
from raydc.data.prepared import Prepared
from raydc.errors import CheckpointError, FormatError, RunError, UsageError
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

FILE = "fork.json"
_INPUT = "input."
# Where the weights of a run started from, and which of them it trained, is not part of its model.
_MAY_DIFFER = ("weights", "weights_sha256", "freeze", "initialisation", "path")
_MAY_DIFFER_INSIDE = ("content.files", "content.revision", "content.end_codes")


@dataclass(frozen=True)
class Origin:
    """The run and step that a fork comes from.

    Attributes:
        run: Name of the other run.
        step: Completed steps of the other run.
        uri: Folder of the other run.
        data_hash: Hash of the data set that it was trained on.
    """

    run: str
    step: int
    uri: str
    data_hash: str

    def __str__(self) -> str:
        return f"run {self.run!r} after step {self.step:,}"


@dataclass(frozen=True)
class Fork:
    """Weights for a new run.

    Attributes:
        origin: Run and step that they come from.
        weights: Tensors by name, on the CPU.
    """

    origin: Origin
    weights: dict[str, Tensor]


def load(spec: ResolvedSpec, data: Prepared, runs: Storage, given: str) -> Fork:
    """Reads the weights of another run; nothing is written yet.

    Args:
        spec: The resolved spec of the new run; its model must be that of the old run.
        data: Data set of the new run; its rows must have the shape that the weights fit.
        runs: Folder of all runs, in which RUN is looked up.
        given: RUN or RUN:STEP; RUN is a name, or a path or URI of a run's folder. Without STEP, the
            best checkpoint of the run, or the newest if none is known to be the best.

    Raises:
        UsageError: STEP is not a number.
        RunError: There is no such run, or it has a different model.
        CheckpointError: There is no such checkpoint that verifies.
    """
    source, step = _find_run(runs, given)
    found = _find_checkpoint(CheckpointStore(source / "checkpoints", 1), step)
    before = yaml.safe_load(found.files["spec.yaml"])
    _refuse_other_model(spec, before)
    # Pretrained weights would be downloaded, only to be replaced by those of the fork.
    section = spec.model.without_weights()
    fresh = models.build(section, data.features.signature, spec.seed).state_dict()
    weights = unpack_model(found)
    if _has_own_input(before["model"]):
        fresh |= {key: tensor for key, tensor in weights.items() if key.startswith(_INPUT)}
    weights = _fit_to_data(fresh, weights, before["name"])
    return Fork(Origin(before["name"], found.step, source.uri, found.meta["data_hash"]), weights)


def write_first_checkpoint(
    fork: Fork, spec: ResolvedSpec, data: Prepared, run_folder: Storage
) -> None:
    """Writes the checkpoint that a fork starts from, and `fork.json` with its origin.

    Args:
        fork: Weights and origin, as `load` returns them.
        spec: The resolved spec of the new run, which the checkpoint stores.
        data: Data set of the new run; the checkpoint stores its features and its hash.
        run_folder: Folder of the new run; it must hold no checkpoint yet.
    """
    constants = constants_of(spec, data, forked_from=vars(fork.origin))
    files = {
        **constants.files,
        "model.safetensors": safetensors.torch.save(fork.weights),
        "state.json": pack_state(State()),
    }
    CheckpointStore(run_folder / "checkpoints", 1).write(0, files, constants.meta)
    run_folder.write_json(FILE, vars(fork.origin))


def origin_of(run_folder: Storage) -> Origin | None:
    """Origin of a forked run; None for any other run, or if the file of it is damaged."""
    if not run_folder.exists(FILE):
        return None
    try:
        value = run_folder.read_json(FILE)
        # By name, because a newer raydc may write more.
        return Origin(str(value["run"]), int(value["step"]), value["uri"], value["data_hash"])
    except (ValueError, KeyError, TypeError):
        return None


def _find_run(runs: Storage, given: str) -> tuple[Storage, int | None]:
    name, colon, step = given.rpartition(":")
    # The colon of a URI such as s3://bucket/run is not one before a step.
    if not colon or step.startswith("//"):
        name, step = given, ""
    if step and not step.isdigit():
        raise UsageError(
            f"--fork {given}: {step!r} is not a number of steps", "Example: --fork digits:500"
        )
    # A name of a run has no slash; a path or URI has one.
    folder = Storage(name) if "/" in name else runs / name
    run_name.require_run(folder, runs, name)
    return folder, int(step) if step else None


def _find_checkpoint(store: CheckpointStore, step: int | None) -> Found:
    if step is not None:
        if step not in store.steps():
            kept = ", ".join(map(str, store.steps())) or "none"
            raise CheckpointError(
                f"{store.folder.uri} has no {name_of(step)}; it has steps: {kept}",
                "Name one of these steps, or leave the step out.",
            )
        return store.read(step)
    newest = store.require_newest("Fork another run.")
    best = unpack_state(newest).best_step
    # Pruning never removes the best checkpoint, but a user may have deleted it.
    if best is None or best not in store.steps():
        return newest
    try:
        return store.read(best)
    except FormatError:
        raise
    except CheckpointError as error:
        hint = f"Name another checkpoint of it, such as --fork RUN:{newest.step}."
        raise CheckpointError(error.message, hint) from error


def _refuse_other_model(spec: ResolvedSpec, before: Mapping[str, Any]) -> None:
    changes = specs.differences(specs.with_defaults(before)["model"], specs.to_dict(spec)["model"])
    relevant = [
        f"model.{change}"
        for change in changes
        if change.path not in _MAY_DIFFER and not change.path.startswith(_MAY_DIFFER_INSIDE)
    ]
    if relevant:
        raise RunError(
            f"run {before['name']!r} has a different model:\n    " + "\n    ".join(relevant),
            "A fork keeps the model: make the section equal, or leave out --fork.",
        )


def _has_own_input(section: Mapping[str, Any]) -> bool:
    """Whether the input layer of a run followed from its weights or its spec, not from the data."""
    given = section.get("normalisation")
    return given != "data" and (given is not None or section.get("weights") is not None)


def _fit_to_data(
    fresh: dict[str, Tensor], weights: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Puts the weights of the run `name` into the state of a new network."""
    for key, tensor in fresh.items():
        # The input layer normalises with constants of the new data.
        if key.startswith(_INPUT):
            continue
        there = weights.get(key)
        if there is None or there.shape != tensor.shape:
            shape = "is missing" if there is None else f"has shape {list(there.shape)}"
            raise RunError(
                f"run {name!r} was trained on rows of a different shape: {key} {shape} there, "
                f"{list(tensor.shape)} here",
                "Fork with data of the same columns, shape and classes.",
            )
        fresh[key] = there
    # safetensors refuses tensors that share memory or are not contiguous.
    return {key: tensor.contiguous().clone() for key, tensor in fresh.items()}
