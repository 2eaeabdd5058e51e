"""The runs of a storage: state, progress, size, and what they depend on. Reads, never writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from raydc.checksummed_folder import MANIFEST
from raydc.cli.store_listing import Extent, StoreListing
from raydc.data.folder_name import folder_name, same_content
from raydc.errors import RunError, did_you_mean, first_line
from raydc.spec.metric import ALL_SCORES
from raydc.storage import split_query
from raydc.tracking import last_records, lease
from raydc.tracking.last_records import LastRecords
from raydc.tracking.trials import STANDING_FILE

# The name in a resolved spec, whose fields are at the left margin.
_NAME = re.compile(rb"^name: ([A-Za-z][\w.-]*)$", re.MULTILINE)
# A removal that was interrupted leaves the folder under this name.
_REMOVED = re.compile(r"^\.(.+)\.[0-9a-f]{8}\.tmp$")


@dataclass(frozen=True)
class Run:
    """A run as `raydc runs` shows it.

    Attributes:
        name: Name of the folder, by which commands find the run.
        state: `running`, `finished`, `unfinished`, or `incomplete` if it has no resolved spec: an
            interrupted removal, or no run at all.
        driver: The process that drives it, in words; None unless it is running.
        extent: Size and age of the folder.
        spec_name: `name` of its spec, which differs from its folder's once `--new` set it aside.
        epoch: Last epoch; None before the first step.
        step: Last step; None before the first step.
        validation: Scores on the validation rows after the last epoch that measured them.
        held_out: Scores on the held-out rows; empty before `raydc evaluate`.
        data_set: Name of its data set; None if nothing in the folder says so.
        forked_from: `run:step` that its first weights come from; None for other runs.
        num_trials: Trials of its sweep that have begun; 0 without one.
        standing: How its sweep stands that has not ended; empty if nothing says so.
        has_scalars: Whether it wrote TensorBoard files.
    """

    name: str
    state: str
    driver: str | None
    extent: Extent
    spec_name: str
    epoch: int | None
    step: int | None
    validation: dict[str, float]
    held_out: dict[str, float]
    data_set: str | None
    forked_from: str | None
    num_trials: int
    standing: str
    has_scalars: bool

    @property
    def may_resume(self) -> bool:
        """Whether `--resume` would continue it under its own name, and so need its data set."""
        return self.state in ("running", "unfinished") and self.name == self.spec_name


def read_runs(listing: StoreListing) -> list[Run]:
    """All runs of a storage by name."""
    return listing.map(lambda name: _read(listing, name), listing.names("runs"))


def read_run(listing: StoreListing, name: str) -> Run:
    """One run.

    Raises:
        RunError: There is no such run.
    """
    if name not in listing.names("runs"):
        known = [one for one in listing.names("runs") if not one.startswith(".")]
        similar = did_you_mean(name, known, num=3, starts_sentence=True)
        raise RunError(
            f"no run {name!r} at {listing.storage.uri}",
            f"{similar} `raydc runs` lists all of them.".strip(),
        )
    return _read(listing, name)


def forks_of(listing: StoreListing, name: str) -> list[str]:
    """Names of the runs that started with the weights of a run."""
    found = []
    for other in listing.names("runs"):
        if "fork.json" in listing.files("runs", other):
            origin = listing.read_json(f"runs/{other}/fork.json")
            # The folder of the origin, because a run that was set aside keeps its name.
            if split_query(str(origin.get("uri", "")))[0].endswith(f"/runs/{name}"):
                found.append(other)
    return found


def data_set_name(listing: StoreListing, spec_name: str, data_hash: str) -> str:
    """Folder of the data set that a spec of this name uses; see `raydc.data.prepare.run`.

    Args:
        listing: Files of the storage: a data set of another name may have the same rows.
        spec_name: `name` of the spec.
        data_hash: Hash of the data set.
    """
    own = folder_name(spec_name, data_hash)
    # A look for each of a thousand runs; most of them need no other.
    if MANIFEST in listing.files("data", own):
        return own
    others = same_content(listing.names("data"), spec_name, data_hash)
    # As `prepare`, which uses none that is not complete.
    return next((name for name in others if MANIFEST in listing.files("data", name)), own)


def scores(record: Mapping[str, Any]) -> dict[str, float]:
    """The scores in a record that are single numbers, the most important first."""
    names = (*ALL_SCORES, "loss")
    return {name: record[name] for name in names if isinstance(record.get(name), float)}


def _read(listing: StoreListing, name: str) -> Run:
    files = listing.files("runs", name)
    folder = f"runs/{name}"
    spec_name = _spec_name(listing, name)
    # The last record of each kind: a run that was resumed has started more than once.
    logged = map(listing.read_lines, _segments(listing, name, "events"))
    kinds = {record["kind"]: record for records in logged for record in records}
    state = "finished" if {"run_finished", "sweep_finished"} & set(kinds) else "unfinished"
    # Read only if the listing has the file, to save a request.
    driver = lease.read_driver(listing.storage / "runs" / name) if lease.FILE in files else None
    if driver is not None and lease.seems_alive(driver):
        state = "running"
    else:
        driver = None
    # This file makes a folder a run: `--resume` and `--new` look for it too.
    if "resolved.yaml" not in files:
        state = "incomplete"
    progress = _last_records(listing, name)
    held_out = "evaluation.json" in files and listing.read_json(f"{folder}/evaluation.json")
    fork = listing.read_json(f"{folder}/fork.json") if "fork.json" in files else {}
    trials = {path.split("/")[2] for path in files if path.startswith("sweep/trials/")}
    data_hash = kinds.get("run_started", {}).get("data_hash") or _locked_data_hash(listing, name)
    return Run(
        name=name,
        state=state,
        driver=str(driver) if driver else None,
        extent=listing.extent("runs", name),
        spec_name=spec_name,
        epoch=progress.last.get("epoch"),
        step=progress.last.get("step"),
        validation=scores(progress.epoch),
        held_out=scores(held_out or {}),
        data_set=data_set_name(listing, spec_name, data_hash) if data_hash else None,
        forked_from=f"{fork['run']}:{fork['step']}" if {"run", "step"} <= set(fork) else None,
        num_trials=len(trials),
        standing=_standing(listing, name) if f"sweep/{STANDING_FILE}" in files else "",
        has_scalars=any("tensorboard/" in path for path in files),
    )


def _standing(listing: StoreListing, name: str) -> str:
    """How a sweep stands: `5 of 24 trials have ended`."""
    found = listing.read_json(f"runs/{name}/sweep/{STANDING_FILE}")
    begun = found.get("trials")
    if not isinstance(begun, list) or not isinstance(found.get("num_samples"), int):
        return ""
    states = [one.get("state") for one in begun if isinstance(one, dict)]
    ended = sum(state not in ("running", "waiting") for state in states)
    return f"{ended} of {found['num_samples']} trials have ended"


def _spec_name(listing: StoreListing, name: str) -> str:
    """`name` of the resolved spec, of which no more is read; else that of the folder."""
    path = f"runs/{name}/resolved.yaml"
    content = listing.read_bytes(path) if "resolved.yaml" in listing.files("runs", name) else None
    if content is None:
        hidden = _REMOVED.match(name)
        return hidden[1] if hidden else name
    # Reading the whole document takes most of the time of a long list.
    if (line := _NAME.search(content)) is not None:
        return line[1].decode()
    try:
        return str(yaml.safe_load(content)["name"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        listing.damaged.append(f"{path}: no resolved spec: {first_line(error)}")
        return name


def _segments(listing: StoreListing, name: str, stem: str) -> list[str]:
    """Files of the log `events` or `metrics`, in the order of their content."""
    # On a local filesystem one file; elsewhere one segment for each writer, sorted by time.
    return sorted(
        f"runs/{name}/{path}"
        for path in listing.files("runs", name)
        if path.startswith(f"{stem}.") and path.endswith(".jsonl") and "/" not in path
    )


def _last_records(listing: StoreListing, name: str) -> LastRecords:
    segments = _segments(listing, name, "metrics")
    found = last_records.find(listing.read_backwards(segments))
    if not found.has_records:
        listing.damaged.append(f"{segments[-1]}: holds no JSON line")
    return found


def _locked_data_hash(listing: StoreListing, name: str) -> str | None:
    """The data set in the lock file of the run, or of any trial: they all use the same one."""
    # A sweep writes no event of its start; each trial locks its environment and data set.
    locks = [path for path in listing.files("runs", name) if path.endswith("run.lock.yaml")]
    for path in sorted(locks, key=len)[:1]:
        content = listing.read_bytes(f"runs/{name}/{path}")
        try:
            found = yaml.safe_load(content or b"")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            listing.damaged.append(f"runs/{name}/{path}: not YAML: {first_line(error)}")
            continue
        if isinstance(found, dict) and found.get("data_hash"):
            return str(found["data_hash"])
    return None
