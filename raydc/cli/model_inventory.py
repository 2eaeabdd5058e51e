"""The registered models of a storage: versions, aliases, size, origin. Reads, never writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raydc.checksummed_folder import MANIFEST
from raydc.cli.run_inventory import Run, data_set_name, scores
from raydc.cli.store_listing import Extent, StoreListing
from raydc.errors import RegistryError, did_you_mean
from raydc.storage import sha256
from raydc.tracking import endpoint_record

# An entry of `raydc.serve.status`, as plain values: this module must not load Ray.
Endpoint = Mapping[str, Any]


@dataclass(frozen=True)
class ModelVersion:
    """A version as `raydc models NAME` shows it.

    Attributes:
        number: Number of the version, from 1.
        state: `complete`, or `incomplete` without a manifest: being registered, or interrupted.
        extent: Size and age of the folder of the version.
        aliases: Aliases that stand for it.
        serves: How running endpoints use it, such as `stable at URL`; empty if no Ray was queried.
        run: Name of the run that it came from; None if it is not recorded.
        run_is_here: Whether that run still holds this very model.
        data_set: Data set that it was trained on; None if it is not recorded.
        by: Name of the user who registered it; None if it is not recorded.
        registered_s: Unix time of it; None if it is not recorded.
        metrics: Its scores on the held-out rows.
    """

    number: int
    state: str
    extent: Extent
    aliases: list[str]
    serves: list[str]
    run: str | None = None
    run_is_here: bool = False
    data_set: str | None = None
    by: str | None = None
    registered_s: float | None = None
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Model:
    """A model as `raydc models` shows it.

    Attributes:
        name: Name of the model in the registry.
        extent: Size and age of all of it.
        versions: Its versions, ascending.
        aliases: Alias to version.
        num_tokens: Access tokens of its endpoint.
        notes: How endpoints may differ from their aliases, in sentences.
    """

    name: str
    extent: Extent
    versions: list[ModelVersion]
    aliases: dict[str, int]
    num_tokens: int
    notes: list[str]


def read_models(listing: StoreListing, endpoints: Sequence[Endpoint] = ()) -> list[Model]:
    """All models of a storage by name; one file of each is read.

    Args:
        listing: Files of the storage, listed once per kind.
        endpoints: Running endpoints, from `raydc.serve.status`; empty if no Ray was queried.
    """
    names = listing.names("models")
    return listing.map(lambda name: _read(listing, name, endpoints), names)


def read_model(
    listing: StoreListing, name: str, runs: Sequence[Run], endpoints: Sequence[Endpoint] = ()
) -> Model:
    """One model, with the origin of each of its versions.

    Args:
        listing: Files of the storage, listed once per kind.
        name: Name of the folder below `models/`.
        runs: Runs of the storage; those that still hold a version's model are its origin.
        endpoints: Running endpoints, from `raydc.serve.status`; empty if no Ray was queried.

    Raises:
        RegistryError: There is no such model.
    """
    if name not in listing.names("models"):
        known = [one for one in listing.names("models") if not one.startswith(".")]
        similar = did_you_mean(name, known, num=3, starts_sentence=True)
        raise RegistryError(
            f"no model {name!r} at {listing.storage.uri}",
            f"{similar} `raydc models` lists all of them.".strip(),
        )
    model = _read(listing, name, endpoints)
    # A run that was set aside keeps its spec's name, and may still hold a registered model.
    digests = {run.name: _digest(listing, run) for run in runs if run.spec_name == name}
    versions = listing.map(
        lambda version: _with_origin(listing, name, version, digests), model.versions
    )
    return replace(model, versions=versions)


def versions_of_run(listing: StoreListing, run: Run) -> list[ModelVersion]:
    """The versions that hold the model of a run, byte for byte."""
    if run.spec_name not in listing.names("models"):
        return []
    model = read_model(listing, run.spec_name, [run])
    return [version for version in model.versions if version.run_is_here]


def _read(listing: StoreListing, name: str, endpoints: Sequence[Endpoint]) -> Model:
    files = listing.files("models", name)
    # A version that was removed leaves its `N.json`, which keeps its number from being used again.
    numbers = {int(path[9:].split("/")[0]) for path in files if re.match(r"versions/\d+/", path)}
    aliases = _aliases(listing, name)
    versions = [
        ModelVersion(
            number,
            "complete" if f"versions/{number}/{MANIFEST}" in files else "incomplete",
            listing.extent("models", name, f"versions/{number}/"),
            sorted(alias for alias, version in aliases.items() if version == number),
            _serves(listing.storage.uri, name, number, endpoints),
        )
        for number in sorted(numbers)
    ]
    # Their secrets are not stored, so the number is all there is to show.
    num_tokens = sum(path.startswith("tokens/") for path in files)
    notes = _differences(listing, name, aliases, endpoints)
    return Model(name, listing.extent("models", name), versions, aliases, num_tokens, notes)


def _differences(
    listing: StoreListing, name: str, aliases: Mapping[str, int], endpoints: Sequence[Endpoint]
) -> list[str]:
    """How endpoints differ from their aliases: those that a Ray lists, and those on record."""
    notes = []
    asked = set()
    for one in endpoints:
        if (one["storage"], one["model"]) != (listing.storage.uri, name):
            continue
        asked.add(one["alias"])
        if one["version"] != aliases.get(one["alias"]):
            notes.append(
                f"alias {one['alias']!r} stands for version {aliases.get(one['alias'])}, but its "
                f"endpoint {one['url']} answers with version {one['version']}: promote or roll "
                "back again"
            )
    pattern = re.compile(rf"{endpoint_record.FOLDER}/[^/]+\.json")
    for path in sorted(filter(pattern.fullmatch, listing.files("models", name))):
        record = endpoint_record.parse_record(listing.read_json(f"models/{name}/{path}"))
        if record is None or (record.alias in asked and record.change is None):
            continue
        if note := endpoint_record.describe_difference(record, aliases.get(record.alias)):
            notes.append(note)
    return notes


def _aliases(listing: StoreListing, name: str) -> dict[str, int]:
    """The newest entry of the history holds all aliases; the last of each stack is current."""
    pattern = re.compile(r"history/\d{8}\.json")
    entries = sorted(path for path in listing.files("models", name) if pattern.fullmatch(path))
    record = listing.read_json(f"models/{name}/{entries[-1]}") if entries else {}
    stacks = record.get("aliases")
    # A damaged entry is named by `read_json`; without it no alias is known.
    if not isinstance(stacks, dict):
        return {}
    return {alias: int(stack[-1]) for alias, stack in sorted(stacks.items()) if stack}


def _serves(uri: str, name: str, version: int, endpoints: Sequence[Endpoint]) -> list[str]:
    """How each endpoint of this model in this storage uses a version."""
    found = []
    for one in endpoints:
        # Other storages may have a model of this name.
        if (one["storage"], one["model"]) != (uri, name):
            continue
        if one["version"] == version:
            found.append(f"answers at {one['url']}")
        for kind in ("canary", "shadow"):
            if one[kind] is not None and one[kind].version == version:
                found.append(f"{kind} at {one['url']}")
    return found


def _digest(listing: StoreListing, run: Run) -> str:
    """sha256 of the manifest of a run's model, which identifies every byte of it."""
    path = f"model/{MANIFEST}"
    if path not in listing.files("runs", run.name):
        return ""
    return sha256(listing.read_bytes(f"runs/{run.name}/{path}") or b"")


def _with_origin(
    listing: StoreListing, name: str, version: ModelVersion, digests: Mapping[str, str]
) -> ModelVersion:
    """A version with what its record says. An unreadable record leaves its origin unknown."""
    path = f"versions/{version.number}.json"
    files = listing.files("models", name)
    record = listing.read_json(f"models/{name}/{path}") if path in files else {}
    facts_path = f"versions/{version.number}/facts.json"
    facts = listing.read_json(f"models/{name}/{facts_path}") if facts_path in files else {}
    # The digest identifies the run; one of the recorded name may have been trained again since.
    holder = next((run for run, digest in digests.items() if digest == record.get("digest")), None)
    data_hash, metrics = facts.get("data_hash"), record.get("metrics")
    return ModelVersion(
        version.number,
        version.state,
        version.extent,
        version.aliases,
        version.serves,
        run=holder or record.get("run"),
        run_is_here=holder is not None,
        data_set=data_set_name(listing, name, data_hash) if data_hash else None,
        by=record.get("by"),
        registered_s=record.get("time_s"),
        metrics=scores(metrics) if isinstance(metrics, dict) else None,
    )
