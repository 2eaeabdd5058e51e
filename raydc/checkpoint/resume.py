"""What a run goes on from: the newest state that verifies, in memory or in storage, and only if it is of this run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import yaml

from raydc import spec as specs
from raydc.checkpoint.saver import PeerCheckpoints
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.errors import CheckpointError, RunError, close_names
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking.journal import Journal

T = TypeVar("T")
# Sections that may differ between a run and its continuation: they do not change the model.
_MAY_CHANGE = {"name", "storage", "scaling", "fault_tolerance", "checkpoint", "serve"}
# Storage that does not answer: seconds before it is asked again.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
STORAGE, MEMORY = 0, 1
_LOCK = "run.lock.yaml"


def newest(
    store: CheckpointStore, recent: PeerCheckpoints | None, journal: Journal
) -> tuple[Found | None, int]:
    """The newest state that verifies, and where it is; what is skipped is named and taken out of the way.

    Raises:
        CheckpointError: There are checkpoints, but none verifies, or storage does not answer.
    """
    store.sweep_drafts()
    found, skipped = retry_reads(store.newest, store.folder)
    for skip in skipped:
        journal.record_event("checkpoint_skipped", checkpoint=skip.name, reason=skip.reason)
    in_memory = recent.newest() if recent is not None else None
    if in_memory is not None and (found is None or in_memory.step > found.step):
        found, place = in_memory, MEMORY
    else:
        place = STORAGE
    if found is None and skipped:
        raise CheckpointError(
            f"none of the {len(skipped)} checkpoints in {store.folder.uri} verifies; {skipped[0].reason}",
            "Put back an intact copy, or type --new to start again.",
        )
    for skip in skipped:
        store.set_aside(skip.step)
    return found, place


def require_run(folder: Storage, runs: Storage, name: str) -> None:
    """A run that never was cannot be gone on with.

    Raises:
        RunError: There is no such run; it names those that are close.
    """
    if folder.exists("resolved.yaml"):
        return
    known = [known for known in runs.names() if (runs / known).exists("resolved.yaml")]
    close = close_names(name, known, num=3) or known[:5]
    there = f"there are: {', '.join(close)}" if close else "there is none"
    raise RunError(
        f"there is no run {name!r} at {folder.uri}; {there}",
        "Check name and storage; `raydc runs` lists what there is.",
    )


def refuse_lost_checkpoints(
    spec: ResolvedSpec, store: CheckpointStore, history: Iterable[Mapping[str, Any]]
) -> None:
    """A run whose checkpoints are gone does not begin again unasked.

    Args:
        spec: The resolved spec.
        store: Which holds no checkpoint.
        history: Lines of the run's events.

    Raises:
        CheckpointError: It once had some.
    """
    steps = [event["step"] for event in history if event["kind"] == "checkpoint"]
    if steps:
        raise CheckpointError(
            f"run {spec.name!r} has written {len(steps)} checkpoints, the last after step {steps[-1]}, "
            f"but {store.folder.uri} holds none",
            "Put one back to go on from it, or type --new to start again.",
        )


def read(store: CheckpointStore, recent: PeerCheckpoints | None, step: int, place: int) -> Found:
    """The state that rank 0 found.

    Raises:
        CheckpointError: It is no longer there, or does not verify.
    """
    if place == MEMORY and recent is not None:
        return recent.read(step)
    return retry_reads(lambda: store.read(step), store.folder)


def retry_reads(ask: Callable[[], T], folder: Storage) -> T:
    """An answer of storage that may be away for a minute.

    Raises:
        CheckpointError: It was away for longer.
    """
    for pause_s in _PAUSES_S:
        try:
            return ask()
        except OSError:
            time.sleep(pause_s)
    try:
        return ask()
    except OSError as error:
        raise CheckpointError(
            f"{folder.uri} cannot be read: {error}", "Give access to it, then type --resume."
        ) from error


def refuse_changes(spec: ResolvedSpec, data_hash: str, found: Found) -> None:
    """A state of another spec or data set is not gone on from.

    Raises:
        RunError: What differs, with both values.
    """
    refuse_other_data(spec, found.meta["data_hash"], data_hash)
    refuse_other_spec(spec, yaml.safe_load(found.files["spec.yaml"]))


def refuse_other_data(spec: ResolvedSpec, before: str, now: str) -> None:
    """A run goes on with the data set that it was started with, by hash.

    Raises:
        RunError: It is another one.
    """
    if before != now:
        raise RunError(
            f"run {spec.name!r} was trained on data set {before[:12]}, but the prepared data set is {now[:12]}",
            "Restore the sources, type --new to start again with the changed data, or give the run another name and "
            f"--fork {spec.name} to start from its weights.",
        )


def refuse_other_spec(spec: ResolvedSpec, before: Mapping[str, Any]) -> None:
    """A run goes on with the spec that it was started with.

    Args:
        spec: The resolved spec of now.
        before: The resolved spec of then, as plain values.

    Raises:
        RunError: Each key that differs, with both values.
    """
    changed = specs.differences(before, specs.to_dict(spec))
    relevant = [change for change in changed if change.path.split(".")[0] not in _MAY_CHANGE]
    if not relevant:
        return
    hint = (
        "Undo the change to resume, type --new to start again with it, or give the run another name and "
        f"--fork {spec.name} to start from its weights."
    )
    if all(change.path == "train.logical_shards" for change in relevant):
        hint = f"A step keeps its pieces when the workers change: --set train.logical_shards={relevant[0].before}"
    lines = "\n    ".join(map(str, relevant))
    raise RunError(f"run {spec.name!r} was started with another spec:\n    {lines}", hint)


def lock_environment(run_folder: Storage, now: Mapping[str, Any], journal: Journal) -> None:
    """Writes down what the bits depend on besides the spec; a resumed run says where that has changed."""
    if not run_folder.exists(_LOCK):
        run_folder.write_bytes(_LOCK, yaml.safe_dump(dict(now)).encode())
        return
    before = yaml.safe_load(run_folder.read_bytes(_LOCK))
    changes = {
        name: [before.get(name), value] for name, value in now.items() if before.get(name) != value
    }
    if changes:
        journal.record_event("environment_changed", changes=changes)
