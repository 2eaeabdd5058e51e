"""The state from which a run continues: the newest that verifies, and only if it is of this run.

Runs in the workers; what can be refused before they start is refused in the driver.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from raydc import spec as specs
from raydc.checkpoint import best
from raydc.checkpoint.peer_checkpoints import PeerCheckpoints
from raydc.checkpoint.store import CheckpointStore, Found, name_of
from raydc.checksummed_folder import read_one
from raydc.errors import (
    CheckpointError,
    FormatError,
    RunError,
    Say,
    os_error_hint,
)
from raydc.spec import ResolvedSpec
from raydc.spec.changes import Change
from raydc.storage import Storage
from raydc.tracking.journal import Journal

T = TypeVar("T")
# Sections that may differ between a run and its continuation, because they do not change the model.
_MAY_CHANGE = {"name", "storage", "scaling", "fault_tolerance", "checkpoint", "serve"}
# A sweep may be widened: its first trials stay the same.
_WIDTH = "sweep.num_samples"
_MAY_CHANGE_ALONE = {"sweep.max_concurrent_trials"}
# Where a pretrained model and its tokenizer were found. Their content is compared instead.
_DTYPE, _ENDS = "model.content.dtype", "model.content.end_codes"
_REVISION, _TOKENIZER = "model.content.revision", "data.features.text.tokenizer"
# Field whose number a run finds at its first start, if the spec says `auto`.
MICRO_BATCH = "train.micro_batch_size"


class Source(IntEnum):
    """Where a state is; a number, because ranks exchange numbers."""

    STORAGE = 0
    MEMORY = 1


def find_newest(
    store: CheckpointStore,
    peer_memory: PeerCheckpoints | None,
    journal: Journal,
    retry_pauses_s: Sequence[float],
) -> tuple[Found | None, Source]:
    """Finds the newest state that verifies. Those that do not are reported and set aside.

    If the best checkpoint that it names is lost, an older state is found from which the best is
    computed again, as long as there is one.

    Args:
        store: The checkpoints of the run, which are read if memory holds no newer state.
        peer_memory: Memory that outlives the workers; None reads checkpoints only.
        journal: Records an event for each checkpoint that is skipped.
        retry_pauses_s: Seconds between attempts to read storage.

    Returns:
        The state and where it is; None for a run that starts at step 0.

    Raises:
        CheckpointError: There are checkpoints but none verifies, or storage does not answer.
    """
    store.sweep_drafts()
    found, skipped = retry_reads(store.newest, store.folder, retry_pauses_s)
    for skip in skipped:
        journal.record_event("checkpoint_skipped", checkpoint=skip.name, reason=skip.reason)
    source = Source.STORAGE
    in_memory = peer_memory.newest() if peer_memory is not None else None
    if in_memory is not None and (found is None or in_memory.step > found.step):
        found, source = in_memory, Source.MEMORY
    if found is None and skipped:
        raise CheckpointError(
            f"none of the {len(skipped)} checkpoints in {store.folder.uri} verifies; "
            f"{skipped[0].reason}",
            "Put back an intact copy, or pass --new to start again.",
        )
    if found is not None and (lost := best.find_lost(store, found)) is not None:
        earlier = best.newest_before(store, lost.step)
        if earlier is not None:
            found, source = earlier, Source.STORAGE
        then = (
            "it is not a model any more, unless it is put back"
            if earlier is None
            else f"the run goes back to step {found.step:,}, to compute it again"
        )
        journal.record_event("best_lost", checkpoint=lost.name, reason=lost.reason, then=then)
    # Only now: if none verifies, all must stay where the reader of the error finds them.
    for skip in skipped:
        store.set_aside(skip.step)
    return found, source


def read_state(
    store: CheckpointStore,
    peer_memory: PeerCheckpoints | None,
    step: int,
    source: Source,
    retry_pauses_s: Sequence[float],
) -> Found:
    """Reads the state that rank 0 found.

    Args:
        store: The checkpoints of the run, for a state that rank 0 found in storage.
        peer_memory: Memory that outlives the workers; None if there is none.
        step: Completed steps of the state that rank 0 found.
        source: Whether rank 0 found it in storage or in memory.
        retry_pauses_s: Seconds between attempts to read storage.

    Raises:
        CheckpointError: It is gone or does not verify.
    """
    if source is Source.MEMORY and peer_memory is not None:
        return peer_memory.read(step)
    return retry_reads(lambda: store.read(step), store.folder, retry_pauses_s)


def retry_reads(read: Callable[[], T], folder: Storage, pauses_s: Sequence[float]) -> T:
    """Reads from storage that may be unavailable for a while.

    Args:
        read: The call to repeat. Raises OSError if storage does not answer.
        folder: Folder that the error names.
        pauses_s: Seconds between the attempts; one attempt more than pauses.

    Raises:
        CheckpointError: Storage was unavailable for longer than all pauses together.
    """
    for pause_s in pauses_s:
        try:
            return read()
        except OSError:
            time.sleep(pause_s)
    try:
        return read()
    except OSError as error:
        raise CheckpointError(
            f"{folder.uri} cannot be read: {error}",
            f"{os_error_hint(error) or 'Does this storage answer?'} Then pass --resume.",
        ) from error


def check_best(store: CheckpointStore, newest: int, report: Say) -> None:
    """Compares the best checkpoint with its hashes before a run is continued.

    One that does not verify is reported and set aside, so that the workers miss it.

    Args:
        store: The checkpoints of the run.
        newest: Step of the newest checkpoint.
        report: Shows a line.
    """
    try:
        _, content = read_one(store.folder / name_of(newest), "state.json")
    except FormatError:
        raise  # It verifies for a newer raydc, so an older one must not win over it.
    except CheckpointError:
        return  # The workers search for one that verifies.
    best_step = json.loads(content).get("best_step")
    if best_step in (None, newest) or best_step not in store.steps():
        return
    try:
        store.read(best_step)
    except FormatError:
        raise
    except CheckpointError as error:
        report(
            f"train     the best checkpoint, {name_of(best_step)}, is set aside: {error.message}"
        )
        store.set_aside(best_step)


def refuse_changes(spec: ResolvedSpec, data_hash: str, found: Found) -> None:
    """Refuses to continue from a state of a different spec or data set.

    Args:
        spec: The resolved spec of this attempt, which is compared with that of the state.
        data_hash: Hash of the data set of this attempt.
        found: State to continue from, with the spec and the hash that it was written with.

    Raises:
        RunError: Spec or data set differ; the message has both values.
    """
    refuse_other_data(spec, found.meta["data_hash"], data_hash)
    refuse_other_spec(spec, yaml.safe_load(found.files["spec.yaml"]))


def refuse_other_data(spec: ResolvedSpec, before: str, now: str) -> None:
    """Refuses to continue a run with a different data set.

    Args:
        spec: The resolved spec, for the name of the run in the message.
        before: Hash of the data set that the run was started with.
        now: Hash of the prepared data set.

    Raises:
        RunError: The hashes differ.
    """
    if before != now:
        raise RunError(
            f"run {spec.name!r} was trained on data set {before[:12]}, but the prepared data set "
            f"is {now[:12]}",
            "Restore the sources, pass --new to start again with the changed data, or give the run "
            f"another name and --fork {spec.name} to start from its weights.",
        )


def refuse_other_spec(spec: ResolvedSpec, before: Mapping[str, Any]) -> None:
    """Refuses to continue a run with a different spec.

    Args:
        spec: The resolved spec of this attempt.
        before: The resolved spec that the run was started with, as plain values.

    Raises:
        RunError: A field that changes the model differs; the message has both values of each.
    """
    changed = specs.differences(specs.with_defaults(before), specs.to_dict(spec))
    relevant = [
        change
        for change in changed
        if not (_may_change(change) or _is_same_content(change) or _is_found(change))
    ]
    if not relevant:
        return
    hint = (
        "Undo the change to resume, pass --new to start again with it, or give the run another "
        f"name and --fork {spec.name} to start from its weights."
    )
    # Its default follows the number of workers, so it may change although the spec does not.
    if all(change.path == "train.logical_shards" for change in relevant):
        hint = (
            "To keep the number of logical shards of the run: "
            f"--set train.logical_shards={relevant[0].before}"
        )
    if any(change.path == _WIDTH for change in relevant):
        hint = f"A sweep can be widened, not narrowed. {hint}"
    lines = "\n    ".join(map(str, relevant))
    raise RunError(f"run {spec.name!r} was started with a different spec:\n    {lines}", hint)


def _may_change(change: Change) -> bool:
    """Whether a continuation may differ in this field."""
    if change.path == _WIDTH:
        return change.before is not None and change.after > change.before
    return change.path in _MAY_CHANGE_ALONE or change.path.split(".")[0] in _MAY_CHANGE


def _is_found(change: Change) -> bool:
    """Whether the run has found the number that the spec leaves to it."""
    is_number = isinstance(change.before, int)
    return change.path == MICRO_BATCH and is_number and change.after == "auto"


def _is_same_content(change: Change) -> bool:
    """Whether only the place differs in which equal files of a pretrained model were found.

    The hub has a new commit, or another machine has its cache elsewhere. `model.content` has the
    hashes of the files.
    """
    # An older raydc did not note the type of the weights, which the hashes cover, nor further ends
    # of answers, which say nothing of the training.
    if change.path in (_REVISION, _ENDS) or (change.path == _DTYPE and change.before is None):
        return True
    if change.path != _TOKENIZER or None in (change.before, change.after):
        return False
    try:
        return Path(change.before).read_bytes() == Path(change.after).read_bytes()
    except OSError:
        # A cache may be gone. The hash of the data set covers the content, and is compared too.
        return True
