"""The small files of a run: what is lost with each, and what stands in for it. Runs in the driver.

Only `resolved.yaml` is needed to continue a run, and checkpoints hold a copy of it. Whatever else
is damaged or gone is left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from raydc import spec as specs
from raydc.checkpoint import resume
from raydc.checkpoint.run_name import RESOLVED
from raydc.checkpoint.store import CheckpointStore, name_of
from raydc.checksummed_folder import is_damage, read_one
from raydc.errors import CheckpointError, RunError, Say, first_line
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.journal import Journal

LOCK_FILE = "run.lock.yaml"
# Facts about a run that nothing but its tables and its model card need.
_FACTS = ("fork.json", "evaluation.json")


def write_spec(spec: ResolvedSpec, folder: Storage, given_text: str | None) -> None:
    """Writes both forms of the spec of a new run, which makes its folder a run.

    Args:
        spec: The resolved spec.
        folder: Folder of the run.
        given_text: The spec file as the user wrote it; None stores the resolved one in its place.
    """
    resolved = yaml.safe_dump(specs.to_dict(spec), sort_keys=False)
    folder.write_bytes("spec.yaml", (resolved if given_text is None else given_text).encode())
    # Last, because this file makes the folder a run.
    folder.write_bytes("resolved.yaml", resolved.encode())


def compare_resolved(spec: ResolvedSpec, folder: Storage, report: Say) -> None:
    """Refuses to continue a run with a different spec from its `resolved.yaml`.

    The newest checkpoint that verifies decides if that file is damaged, and the file is written
    again. So is that of a sweep that gets more samples.

    Args:
        spec: The resolved spec of this attempt.
        folder: Folder of the run, with its `resolved.yaml`.
        report: Shows a line if the file was damaged.

    Raises:
        RunError: A field that changes the model differs, or the file cannot be read and there is no
            checkpoint that could stand in for it.
    """
    before, reason = _read_yaml(folder, RESOLVED)
    refusal: RunError | None = None
    if before is not None:
        try:
            resume.refuse_other_spec(spec, before)
            _widen(spec, before, folder, report)
            return
        except RunError as error:
            refusal = error
    kept = _spec_of_newest(folder)
    if kept is None:
        raise refusal or RunError(
            f"{folder.uri}/{RESOLVED} cannot be read ({reason}), and no checkpoint verifies that "
            "holds a copy of it",
            "Put the file back to continue the run, or pass --new to start again.",
        )
    resume.refuse_other_spec(spec, yaml.safe_load(kept))
    report(
        f"run       {folder.uri}/{RESOLVED} is damaged ({reason or 'it differs'}): written again "
        "from a checkpoint"
    )
    folder.write_bytes(RESOLVED, kept)


def _widen(spec: ResolvedSpec, before: dict[str, Any], folder: Storage, report: Say) -> None:
    """Records that a sweep has more samples than before, below which it cannot go any more."""
    if spec.sweep is None or spec.sweep.num_samples == before["sweep"]["num_samples"]:
        return
    report(
        f"run       the sweep is widened from {before['sweep']['num_samples']} to "
        f"{spec.sweep.num_samples} samples"
    )
    # Nothing else changes: trials are named by what the run has recorded.
    before["sweep"]["num_samples"] = spec.sweep.num_samples
    folder.write_bytes(RESOLVED, yaml.safe_dump(before, sort_keys=False).encode())


def read_resolved(folder: Storage) -> dict[str, Any] | None:
    """The `resolved.yaml` of a run, as plain values; None if there is none that can be read."""
    return _read_yaml(folder, RESOLVED)[0]


def read_micro_batch(folder: Storage) -> int | None:
    """The number of rows of a pass that a run with `micro_batch_size: auto` has found before.

    Where `resolved.yaml` does not say it, as one that is damaged, its newest checkpoint does.
    """
    number = _micro_batch_of(read_resolved(folder))
    if number is None and (kept := _spec_of_newest(folder)) is not None:
        number = _micro_batch_of(yaml.safe_load(kept))
    return number


def with_micro_batch(spec: ResolvedSpec, kept: bytes) -> ResolvedSpec:
    """A spec with the number of rows of a pass in the place of `auto`.

    Args:
        spec: The resolved spec of a run.
        kept: The `spec.yaml` of a checkpoint of it.
    """
    number = _micro_batch_of(yaml.safe_load(kept))
    if spec.train.micro_batch_size != "auto" or number is None:
        return spec
    train = spec.train.model_copy(update={"micro_batch_size": number})
    return spec.model_copy(update={"train": train})


def _micro_batch_of(resolved: dict[str, Any] | None) -> int | None:
    train = (resolved or {}).get("train")
    number = train.get("micro_batch_size") if isinstance(train, dict) else None
    return number if isinstance(number, int) else None


def write_micro_batch(spec: ResolvedSpec, folder: Storage, number: int) -> None:
    """Writes the number of rows of a pass into `resolved.yaml`, for all later attempts.

    Args:
        spec: The resolved spec, which is written where there is no such file, as for a drill, or a
            damaged one.
        folder: Folder of the run.
        number: Most rows of a pass.
    """
    value = read_resolved(folder) or {}
    if not isinstance(value.get("train"), dict):
        value = specs.to_dict(spec)
    value["train"]["micro_batch_size"] = number
    folder.write_bytes(RESOLVED, yaml.safe_dump(value, sort_keys=False).encode())


def _spec_of_newest(folder: Storage) -> bytes | None:
    """The `spec.yaml` of the newest checkpoint in which it verifies."""
    store = CheckpointStore(folder / "checkpoints", 1)
    for step in reversed(store.steps()):
        try:
            return read_one(store.folder / name_of(step), "spec.yaml")[1]
        except CheckpointError:
            continue
    return None


def refuse_lost_checkpoints(
    spec: ResolvedSpec, store: CheckpointStore, history: Iterable[Mapping[str, Any]]
) -> None:
    """Refuses to start a run from step 0 if its checkpoints are gone.

    Args:
        spec: The resolved spec, for the name of the run in the message.
        store: Store that holds no checkpoint; the message names its folder.
        history: Lines of the run's `events.jsonl`, which say what was written.

    Raises:
        CheckpointError: The run has written checkpoints.
    """
    steps = [event["step"] for event in history if event["kind"] == "checkpoint"]
    if steps:
        raise CheckpointError(
            f"run {spec.name!r} has written {len(steps)} checkpoints, the last after step "
            f"{steps[-1]}, but {store.folder.uri} holds none",
            "Put one back to continue from it, or pass --new to start again.",
        )


def report_damage(run_folder: Storage, newest_step: int, report: Say) -> None:
    """Names the records of a run that are damaged or gone; the run continues without them.

    Args:
        run_folder: Folder of the run, with its metrics and events.
        newest_step: Step of its newest checkpoint, up to which there must be records.
        report: Shows a line.
    """
    metrics, damaged = events.read_with_damage(run_folder, "metrics")
    happened, damaged_events = events.read_with_damage(run_folder, "events")
    for place in (*damaged_events, *damaged):
        report(f"train     {place} cannot be read and is left out")
    for name in _FACTS:
        try:
            if run_folder.exists(name) and not isinstance(run_folder.read_json(name), dict):
                report(f"train     {run_folder.uri}/{name} is not a JSON object and is left out")
        except (OSError, ValueError) as error:
            report(f"train     {run_folder.uri}/{name} is left out: {first_line(error)}")
    history = events.surviving(iter(metrics))
    known = {line["step"] for line in history if line["kind"] == "step"}
    num_known = sum(step <= newest_step for step in known)
    if num_known < newest_step:
        report(
            f"train     {run_folder.uri}/metrics.jsonl has lines of {num_known:,} of the "
            f"{newest_step:,} steps so far; the others are lost, which changes no weights"
        )
    kinds = {event["kind"] for event in happened}
    if newest_step and not kinds & {"checkpoint", "forked"}:
        report(
            f"train     {run_folder.uri}/events.jsonl has no event of the checkpoints so far; they "
            "are lost, which changes no weights"
        )


def lock_environment(run_folder: Storage, now: Mapping[str, Any], journal: Journal) -> None:
    """Records once what results depend on besides the spec; later attempts compare with it.

    Args:
        run_folder: Folder of the run, in which `run.lock.yaml` is written or compared.
        now: Versions, device and number of threads of this attempt.
        journal: Records an event if something has changed since the run was started.
    """
    before, reason = _read_yaml(run_folder, LOCK_FILE)
    if before is None:
        if reason is not None:
            journal.record_event("file_damaged", file=LOCK_FILE, reason=reason)
        run_folder.write_bytes(LOCK_FILE, yaml.safe_dump(dict(now)).encode())
        return
    # The checkpoints hold spec and data, and are compared with them. What an older raydc did not
    # record is not known to have changed.
    changes = {
        name: [before[name], value]
        for name, value in now.items()
        if name in before and before[name] != value and name not in ("spec_hash", "data_hash")
    }
    if changes:
        journal.record_event("environment_changed", changes=changes)


def _read_yaml(folder: Storage, name: str) -> tuple[dict[str, Any] | None, str | None]:
    """A file with a mapping; or None, with the reason unless there is no such file."""
    try:
        value = yaml.safe_load(folder.read_bytes(name))
    except FileNotFoundError:
        return None, None
    except (yaml.YAMLError, ValueError) as error:
        return None, first_line(error)
    except OSError as error:
        if not is_damage(error):
            raise
        return None, first_line(error)
    return (value, None) if isinstance(value, dict) else (None, "it holds no fields")
