"""Plans and carries out the removals of `raydc rm`. Runs in the command's process.

`plan_*` decide and change nothing; `carry_out` deletes. It starts with what makes a folder look
whole (manifests, the resolved spec), so an interrupted removal leaves nothing that a command would
use, and the same command finishes it.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydc.checksummed_folder import MANIFEST
from raydc.cli.data_inventory import DataSet
from raydc.cli.model_inventory import Model, ModelVersion
from raydc.cli.run_inventory import Run
from raydc.cli.store_listing import Extent, StoreListing
from raydc.cli.texts import age_text
from raydc.errors import DataError, RaydcError, RegistryError, RunError, UsageError
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking import lease

# An incomplete folder that changed so recently may still be written by a process on any machine.
_QUIET_S = 600.0

Beside = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Removal:
    """One folder to delete.

    Attributes:
        what: Kind and name, for messages: `run digits`.
        folder: Path in the storage.
        first: Files to delete first, relative to the folder, in order.
        extent: Size of it.
        notes: What the user should know before: what depends on it and stays.
        version: Model and number of a version that an alias could be moved to meanwhile.
    """

    what: str
    folder: str
    first: tuple[str, ...]
    extent: Extent
    notes: tuple[str, ...] = ()
    version: tuple[str, int] | None = None


def plan_run(
    listing: StoreListing, run: Run, versions: Sequence[ModelVersion], forks: Sequence[str]
) -> Removal:
    """The removal of a run.

    Args:
        listing: Files of the storage, for those of the run.
        run: Run to remove, as `run_inventory` has read it.
        versions: Registered versions that hold its model.
        forks: Names of the runs that started with its weights.

    Raises:
        RunError: A process drives it.
    """
    # Its workers would write checkpoints into a folder that is being deleted.
    if run.driver:
        raise RunError(
            f"run {run.name!r} is in use: {run.driver} drives it",
            "Stop that process first (Ctrl-C; its last checkpoint stays), then remove the run.",
        )
    notes = []
    if run.state == "unfinished":
        step = f" after step {run.step:,}" if run.step else ""
        notes.append(f"it is unfinished{step}: it cannot be resumed any more")
    if versions:
        numbers = ", ".join(str(version.number) for version in versions)
        notes.append(f"{run.spec_name} version {numbers} came from it and stays: it is a copy")
    elif f"model/{MANIFEST}" in listing.files("runs", run.name):
        notes.append("its model goes with it: `raydc evaluate` has not registered it")
    if forks:
        notes.append(f"forks of it stay, because they have their own weights: {', '.join(forks)}")
    files = listing.files("runs", run.name)
    manifests = sorted(path for path in files if path.endswith(f"/{MANIFEST}"))
    # Without its resolved spec a run does not exist; its records must not be found by a new one.
    records = sorted(path for path in files if path.endswith(".jsonl"))
    resolved = [path for path in files if path == "resolved.yaml"]
    first = (*resolved, *manifests, *records)
    return Removal(f"run {run.name}", f"runs/{run.name}", first, run.extent, tuple(notes))


def plan_data_set(listing: StoreListing, one: DataSet) -> Removal:
    """The removal of a data set.

    Args:
        listing: Files of the storage, for those of the data set.
        one: Data set to remove, with the runs that use it.

    Raises:
        DataError: A run needs it, or it may be being written.
    """
    if one.needed_by:
        runs = ", ".join(map(repr, one.needed_by))
        raise DataError(
            f"data set {one.name!r} is in use: run {runs} is not finished",
            "Finish it (raydc train SPEC --resume) or remove it first "
            f"(raydc rm run {one.needed_by[0]} --yes).",
        )
    # `raydc prepare` holds no lease, so recent files are the only sign of it.
    if one.state == "incomplete":
        _refuse_recent(one.extent, f"data set {one.name!r}", DataError)
    notes = []
    if one.runs:
        notes.append(
            f"finished runs used it: {', '.join(one.runs)}; `raydc evaluate` would prepare it again"
        )
    first = (MANIFEST,) if MANIFEST in listing.files("data", one.name) else ()
    return Removal(f"data set {one.name}", f"data/{one.name}", first, one.extent, tuple(notes))


def plan_versions(
    model: Model,
    numbers: Sequence[int],
    beside: Beside,
    previous: Mapping[str, int],
) -> list[Removal]:
    """The removal of versions of a model.

    Args:
        model: The model, and how running endpoints use it.
        numbers: Versions to remove; repeated ones count once.
        beside: Version by (alias, `canary` or `shadow`) that may still run, if no Ray was queried.
        previous: Version that each alias would be rolled back to.

    Raises:
        RegistryError: A version does not exist, or is in use.
    """
    known = {version.number: version for version in model.versions}
    removals = []
    for number in dict.fromkeys(numbers):
        if number not in known:
            raise RegistryError(
                f"model {model.name} has no version {number}",
                f"There are: {', '.join(map(str, known)) or 'none'}.",
            )
        version = known[number]
        _refuse_version_in_use(model, version, beside)
        if version.state == "incomplete":
            what = f"version {number} of {model.name}"
            _refuse_recent(version.extent, what, RegistryError)
        folder = f"models/{model.name}/versions/{number}"
        # `versions/N.json` stays, so that the number is not given again.
        has_manifest = version.state == "complete"
        notes = [
            f"alias {alias!r} can then not be rolled back: it pointed to this version before"
            for alias, before in previous.items()
            if before == number
        ]
        removals.append(
            Removal(
                f"model {model.name} version {number}",
                folder,
                (MANIFEST,) if has_manifest else (),
                version.extent,
                tuple(notes),
                (model.name, number),
            )
        )
    return removals


def plan_model(listing: StoreListing, model: Model, beside: Beside) -> Removal:
    """The removal of a whole model: versions, history and access tokens.

    Args:
        listing: Files of the storage, for those of the model.
        model: The model, and how running endpoints use it.
        beside: As for `plan_versions`.

    Raises:
        RegistryError: A version of it is in use.
    """
    for version in model.versions:
        _refuse_version_in_use(model, version, beside)
        if version.state == "incomplete":
            what = f"version {version.number} of {model.name}"
            _refuse_recent(version.extent, what, RegistryError)
    notes = ["its history goes too, and its versions count from 1 again"]
    if model.num_tokens:
        notes.append(f"{model.num_tokens} access token(s) of its endpoint go with it")
    # Without its manifest a version cannot be resolved, and the tokens are of no use.
    files = listing.files("models", model.name)
    first = tuple(sorted(path for path in files if re.match(rf"versions/\d+/{MANIFEST}", path)))
    return Removal(f"model {model.name}", f"models/{model.name}", first, model.extent, tuple(notes))


def refuse_served_alias(model: str, alias: str, uri: str, endpoints: Sequence[Any]) -> None:
    """Refuses to end an alias that an endpoint serves.

    Args:
        model: Name of the model in the registry at `uri`.
        alias: Alias that the user wants to end.
        uri: Storage of the model; another one may have a model of this name.
        endpoints: Running endpoints, from `raydc.serve.status`.

    Raises:
        RegistryError: An endpoint serves it.
    """
    for one in endpoints:
        if (one["storage"], one["model"], one["alias"]) == (uri, model, alias):
            raise RegistryError(
                f"alias {alias!r} of {model} is in use: {one['url']} answers with it",
                "Take the endpoint down first: raydc stop SPEC",
            )


def carry_out(storage: Storage, removal: Removal) -> None:
    """Deletes what was planned. A removal that was interrupted is finished by another one.

    Args:
        storage: Storage from which `removal` was planned.
        removal: Result of a `plan_*` function.

    Raises:
        UsageError: The folder is a link, so its files lie elsewhere.
        RunError: Another process has started to drive the run.
        RegistryError: An alias was moved to the version meanwhile; nothing was deleted.
        OSError: The storage refuses. What is left no longer looks whole.
    """
    _refuse_link(storage, removal)
    parent, _, name = removal.folder.rpartition("/")
    folder = storage / removal.folder
    # A process that starts to drive this run from here on is refused.
    is_run = parent == "runs" and not name.startswith(".")
    with lease.hold(folder) if is_run else contextlib.nullcontext():
        if removal.version is not None:
            _delete_manifest(storage, removal)
        elif storage.is_local and not name.startswith("."):
            # One rename, and the folder is gone for all readers; what follows only frees space.
            hidden = f".{name}.{uuid.uuid4().hex[:8]}.tmp"
            (storage / parent).move(name, hidden)
            folder = storage / parent / hidden
            # The lease moved with the folder. If this process dies now, the remains must not look
            # like a running run.
            folder.delete(lease.FILE)
        # On an object store a folder goes file by file, and an error may end it at any of them.
        for path in removal.first:
            folder.delete(path)
        folder.delete()


def _delete_manifest(storage: Storage, removal: Removal) -> None:
    """Takes a version out of the registry, unless an alias moves to it at this moment."""
    if removal.version is None or not removal.first:
        return
    model, number = removal.version
    folder = storage / removal.folder
    manifest = folder.read_bytes(MANIFEST)
    folder.delete(MANIFEST)
    # After the deletion no alias can be moved here any more; one that was is seen now.
    if number in Registry(storage).aliases(model).values():
        folder.write_bytes(MANIFEST, manifest)
        raise RegistryError(
            f"an alias of {model} was moved to version {number} meanwhile: it stays",
            f"`raydc models {model}` shows which one.",
        )


def _refuse_version_in_use(model: Model, version: ModelVersion, beside: Beside) -> None:
    what = f"version {version.number} of {model.name} is in use"
    for alias in version.aliases:
        raise RegistryError(
            f"{what}: alias {alias!r} stands for it",
            f"Move the alias (raydc promote SPEC --version N) or end it "
            f"(raydc rm alias {model.name} {alias} --yes).",
        )
    for use in version.serves:
        raise RegistryError(
            f"{what}: it is {use}" if not use.startswith("answers") else f"{what}: it {use}",
            "Move the endpoint to another version (raydc promote SPEC --version N), end the canary "
            "or shadow (raydc canary SPEC --drop), or take the endpoint down (raydc stop SPEC).",
        )
    for (alias, kind), number in beside.items():
        if number == version.number:
            raise RegistryError(
                f"{what}: the history lists it as {kind} of {alias!r}, and no Ray was found",
                f"Give --address of the Ray that serves it, or end it: raydc {kind} SPEC --drop",
            )


def _refuse_recent(extent: Extent, what: str, kind: type[RaydcError]) -> None:
    """Refuses a folder that changed recently: a process without a lease may still write it."""
    if extent.changed_s is not None and time.time() - extent.changed_s < _QUIET_S:
        raise kind(
            f"{what} is incomplete and changed {age_text(extent.changed_s)}: "
            "a process may still write it",
            f"Remove it once it has not changed for {_QUIET_S / 60:.0f} minutes.",
        )


def _refuse_link(storage: Storage, removal: Removal) -> None:
    """Refuses a symbolic link: the files behind it are outside the storage."""
    if storage.is_local and (storage / removal.folder).local_path.is_symlink():
        raise UsageError(
            f"{(storage / removal.folder).uri} is a symbolic link, "
            "and raydc deletes only in its storage",
            "Remove the link, and what it points to, by hand.",
        )
