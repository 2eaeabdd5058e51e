"""The prepared data sets of a storage: rows, size, and which runs use them. Reads, never writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raydc.checksummed_folder import MANIFEST
from raydc.cli.model_inventory import read_model
from raydc.cli.run_inventory import Run
from raydc.cli.store_listing import Extent, StoreListing
from raydc.data.manifest import FORMAT_VERSION, RECORD_FORMAT_VERSION
from raydc.errors import DataError, did_you_mean

# The manifest of a million source files has a hundred megabytes; a table can do without its rows.
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class DataSet:
    """A prepared data set as `raydc data` shows it.

    Attributes:
        name: Name of its folder: that of the spec that prepared it, and the start of the data hash.
        state: `complete`, `incomplete` without a manifest, `damaged` if that cannot be read, or
            `format N` if this version of raydc does not read it.
        extent: Size and age.
        num_rows: Rows by split; empty if they are not known.
        num_sources: Source files; None if it is not known.
        runs: Names of the runs that use it.
        needed_by: Those of them that `--resume` would continue.
    """

    name: str
    state: str
    extent: Extent
    num_rows: dict[str, int]
    num_sources: int | None
    runs: list[str]
    needed_by: list[str]


def read_data_sets(listing: StoreListing, runs: Sequence[Run]) -> list[DataSet]:
    """All data sets of a storage by name.

    Args:
        listing: Files of the storage, listed once per kind.
        runs: Runs of the storage, which say what data sets they use.
    """
    names = listing.names("data")
    return listing.map(lambda name: _read(listing, name, runs, _MAX_MANIFEST_BYTES), names)


def read_data_set(listing: StoreListing, name: str, runs: Sequence[Run]) -> DataSet:
    """One data set, with all of its manifest.

    Args:
        listing: Files of the storage, listed once per kind.
        name: Name of the folder below `data/`.
        runs: Runs of the storage, which say what data sets they use.

    Raises:
        DataError: There is no such data set.
    """
    if name not in listing.names("data"):
        known = [one for one in listing.names("data") if not one.startswith(".")]
        similar = did_you_mean(name, known, num=3, starts_sentence=True)
        raise DataError(
            f"no data set {name!r} at {listing.storage.uri}",
            f"{similar} `raydc data` lists all of them.".strip(),
        )
    return _read(listing, name, runs, None)


def versions_trained_on(listing: StoreListing, name: str) -> list[str]:
    """The registered versions that were trained on a data set, such as `digits 2`."""
    found = []
    # Data sets are shared by specs of different names, so any model may have been trained on it.
    for model_name in listing.names("models"):
        if not model_name.startswith("."):
            model = read_model(listing, model_name, [])
            found += [
                f"{model.name} {one.number}" for one in model.versions if one.data_set == name
            ]
    return found


def _read(
    listing: StoreListing, name: str, runs: Sequence[Run], max_manifest_bytes: int | None
) -> DataSet:
    info = listing.files("data", name).get(MANIFEST)
    facts: dict[str, Any] = {}
    if info is None:
        state = "incomplete"
    elif max_manifest_bytes is not None and (info.size or 0) > max_manifest_bytes:
        state = "complete"
    else:
        facts = listing.read_json(f"data/{name}/{MANIFEST}")
        state = "complete" if facts else "damaged"
        # Not damaged: another version of raydc reads it.
        if facts and facts.get("format") not in (FORMAT_VERSION, RECORD_FORMAT_VERSION):
            state = f"format {facts.get('format', 'unknown')}"
    rows, sources = facts.get("rows"), facts.get("sources")
    return DataSet(
        name=name,
        state=state,
        extent=listing.extent("data", name),
        num_rows=rows if isinstance(rows, dict) else {},
        num_sources=len(sources) if isinstance(sources, list) else None,
        runs=[run.name for run in runs if run.data_set == name],
        needed_by=[run.name for run in runs if run.may_resume and _may_use(run, name)],
    )


def _may_use(run: Run, name: str) -> bool:
    """Whether a run uses a data set, as far as its records say."""
    if run.data_set is not None:
        return run.data_set == name
    # One that starts just now may use any, because specs of different names share data sets. One
    # that has ended without a record has not used any, but would find its own.
    if run.state == "running":
        return True
    return re.fullmatch(rf"{re.escape(run.spec_name)}-[0-9a-f]{{12}}", name) is not None
