"""Storages of other versions of raydc: an older one is read, a newer one is refused by name.

The older one is that of raydc 0.1 before formats had numbers: the same files, no `format` in the
manifest of a folder or in an entry of a history, and no hash of their own in either.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stores import make_data_set, make_storage
from training import training_spec, weights_hash, write_pictures

from raydc import bundle, checksummed_folder, train
from raydc import spec as specs
from raydc.checkpoint import fork, resume
from raydc.checkpoint.store import CheckpointStore
from raydc.data import manifest, prepared
from raydc.errors import DataError, FormatError, RegistryError, RunError
from raydc.features import Features
from raydc.registry import Registry
from raydc.storage import OWN_HASH, Storage, canonical_json, seal, sha256
from raydc.tracking import events, lease


def rewrite(folder: Storage, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file in place, as its writer would: with the hash of what it holds now."""
    value = folder.read_json(name)
    sealed = value.pop(OWN_HASH, None)
    change(value)
    folder.write_json(name, seal(value) if sealed else value)


def all_of(storage: Storage, pattern: str) -> list[tuple[Storage, str]]:
    """Folder and name of each file that matches a glob pattern."""
    paths = sorted(storage.local_path.glob(pattern))
    assert paths, pattern
    return [(Storage(str(path.parent)), path.name) for path in paths]


def as_before_formats(storage: Storage) -> None:
    """Turns a storage into one of raydc before formats had numbers."""
    for pattern in ("**/MANIFEST.json", "models/*/history/*.json"):
        for folder, name in all_of(storage, pattern):
            value = folder.read_json(name)
            value.pop(OWN_HASH, None)
            if "data" not in folder.local_path.parts[-2:]:  # Data sets always had a format.
                value.pop("format")
            folder.write_json(name, value)


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    return prepared.load(write_pictures(Storage(str(tmp_path / "pictures"))))


@pytest.fixture
def trained(tmp_path: Path, data: prepared.Prepared) -> Storage:
    """A storage with a run of one epoch, registered as version 1."""
    storage = Storage(str(tmp_path / "store"))
    spec, folder = training_spec("x", name="old", train={"epochs": 1}), storage / "runs" / "old"
    folder.write_bytes("resolved.yaml", yaml.safe_dump(specs.to_dict(spec)).encode())
    train.run(spec, data, folder, lambda line: None)
    Registry(storage).register("old", folder / "model", {"run": "old"})
    Registry(storage).set_alias("old", "production", 1)
    return storage


def test_older_storage_is_resumed_served_and_extended(
    trained: Storage, data: prepared.Prepared
) -> None:
    as_before_formats(trained)
    run, registry = trained / "runs" / "old", Registry(trained)
    steps = CheckpointStore(run / "checkpoints", 3).steps()
    before = weights_hash(run, steps[-1])
    train.run(training_spec("x", name="old", train={"epochs": 1}), data, run, list, resume=True)
    assert weights_hash(run, steps[-1]) == before
    assert not [one for one in events.read(run, "events") if one["kind"] == "checkpoint_skipped"]
    assert registry.aliases("old") == {"production": 1}
    bundle.load(registry.folder("old", 1)).check_golden()
    # The history goes on in today's format beside older entries.
    registry.set_alias("old", "staging", 1)
    assert [move["alias"] for move in registry.history("old")] == ["production", "staging"]


def test_spec_without_a_newer_field_is_resumed(trained: Storage, data: prepared.Prepared) -> None:
    spec = training_spec("x", name="old", train={"epochs": 1})
    before = specs.to_dict(spec)
    assert "precision" in before["train"]
    del before["train"]["precision"]
    resume.refuse_other_spec(spec, before)
    with pytest.raises(RunError, match="seed"):
        resume.refuse_other_spec(spec, {**before, "seed": 5})
    # One that a newer raydc wrote is compared as it is, and names what it has more.
    with pytest.raises(RunError, match="hypergradient"):
        resume.refuse_other_spec(spec, {**before, "train": {**before["train"], "hypergradient": 1}})


@pytest.mark.parametrize("newest_only", [True, False])
def test_checkpoint_of_a_newer_format_is_refused_not_skipped(
    trained: Storage, data: prepared.Prepared, newest_only: bool
) -> None:
    run = trained / "runs" / "old"
    manifests = all_of(trained, "runs/old/checkpoints/*/MANIFEST.json")
    for folder, name in manifests[-1:] if newest_only else manifests:
        rewrite(folder, name, lambda value: value.update(format=2))
    spec = training_spec("x", name="old", train={"epochs": 2})
    with pytest.raises(FormatError, match="has format 2, but this raydc reads up to 1") as caught:
        train.run(spec, data, run, list, resume=True)
    assert "pip install --upgrade raydc" in str(caught.value)
    names = (run / "checkpoints").names()
    assert not [name for name in names if name.endswith((".damaged", ".tmp"))]
    with pytest.raises(FormatError):
        CheckpointStore(run / "checkpoints", 1).newest()
    with pytest.raises(FormatError):
        fork.load(spec, data, trained / "runs", "old")


def test_bundle_of_a_newer_format_is_refused(trained: Storage) -> None:
    folder = trained / "models" / "old" / "versions" / "1"
    # A newer format may have nothing of today's.
    folder.write_json(checksummed_folder.MANIFEST, {"format": 2, "parts": []})
    with pytest.raises(FormatError, match=r"versions/1/MANIFEST\.json has format 2"):
        bundle.load(Registry(trained).folder("old", 1))


def test_history_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    (folder, name), *_ = all_of(storage, "models/digits/history/*.json")
    rewrite(folder, name, lambda value: value.update(format=2))
    for ask in (Registry(storage).aliases, Registry(storage).history):
        with pytest.raises(RegistryError, match=f"{name} has format 2") as caught:
            ask("digits")
        assert "pip install --upgrade raydc" in str(caught.value)


@pytest.mark.parametrize("found", [None, 0, 3])
def test_data_set_of_another_format_is_refused(tmp_path: Path, found: int | None) -> None:
    folder = make_data_set(Storage(str(tmp_path)), "digits-0123456789ab", format=found)
    with pytest.raises(DataError, match=f"format {found}, but this raydc reads 1") as caught:
        manifest.read(folder)
    assert f"Delete the folder {folder.uri}, then prepare it again" in str(caught.value)


def test_driver_of_a_newer_raydc_keeps_its_run(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path / "run"))
    with lease.hold(folder):
        rewrite(folder, lease.FILE, lambda value: value.update(zone="eu-1"))
        found = lease.read_driver(folder)
        assert found is not None
        assert lease.seems_alive(found)
    folder.write_bytes(lease.FILE, json.dumps({"token": "x"}).encode())
    assert lease.read_driver(folder) is None


def test_origin_with_more_fields_is_read(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    origin = {"run": "a", "step": 3, "uri": "/a", "data_hash": "0"}
    folder.write_json(fork.FILE, {**origin, "why": "newer"})
    assert fork.origin_of(folder) == fork.Origin(**origin)  # type: ignore[arg-type]


# Features as the raydc before scales, dates and encodings of categories wrote them.
_OLDER_FEATURES: dict[str, Any] = {
    "signature": {
        "kind": "vector",
        "shape": [6],
        "dtype": "float32",
        "mean": [],
        "scale": [],
        "task": "classification",
        "classes": ["no", "yes"],
    },
    "target": "y",
    "columns": [
        {"name": "a", "kind": "numeric", "mean": 1.5, "shift": 1.0, "scale": 2.0},
        {"name": "b", "kind": "numeric", "mean": 1.5, "shift": 1.0, "scale": 2.0, "low": 0.0,
         "high": 9.0, "marks_missing": True},
        {"name": "c", "kind": "categorical", "categories": ["x", "z"], "has_other": False,
         "has_missing": True},
    ],
    "target_mean": 0.0,
    "target_scale": 1.0,
    "ignored": [],
    "missing_values": [""],
}  # fmt: skip


def test_features_of_an_older_raydc_are_read_and_keep_their_hash() -> None:
    features = Features.from_dict(_OLDER_FEATURES)
    assert features.to_dict() == _OLDER_FEATURES
    assert features.hash == sha256(canonical_json(_OLDER_FEATURES))
    x = features.apply({"a": [3.0], "b": [None], "c": ["z"]})
    np.testing.assert_array_equal(x, [[1.0, 0.25, 1.0, 0.0, 1.0, 0.0]])


@pytest.mark.parametrize("found", [{"kind": "wavelet"}, {"kind": "numeric", "spline": [1.0]}])
def test_column_of_a_newer_raydc_is_refused(found: dict[str, Any]) -> None:
    newer = {**_OLDER_FEATURES, "columns": [{**_OLDER_FEATURES["columns"][0], **found}]}
    with pytest.raises(DataError, match="not the features of a data set"):
        Features.from_dict(newer)
