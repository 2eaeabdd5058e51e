"""Manifests of data sets: damage is found and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydc.data import manifest, prepared, shards
from raydc.errors import DataError
from raydc.features import Features, Numeric, Signature
from raydc.storage import Storage

FEATURES = Features(
    Signature("vector", (1,), "float32", (), (), "regression"), "y", {"a": Numeric(0.0, 0.0, 1.0)}
)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def written(folder: Storage) -> dict[str, Any]:
    """The manifest of a small data set in the folder."""
    x = np.arange(5, dtype=np.float32).reshape(5, 1)
    return shards.write_data_set(folder, FEATURES, {"train": (x, x[:, 0])}, [{"a": 1}])


@pytest.mark.parametrize("name", ["features.json", "golden_rows.json"])
def test_verify_finds_a_flipped_bit_in_a_small_file(
    folder: Storage, written: dict[str, Any], name: str
) -> None:
    content = bytearray(folder.read_bytes(name))
    content[len(content) // 2] ^= 1
    folder.write_bytes(name, bytes(content))
    with pytest.raises(DataError, match=rf"{name} is damaged: expected sha256") as caught:
        prepared.load(folder)
    assert f"Delete the folder {folder.uri}, then prepare it again" in str(caught.value)
    with pytest.raises(DataError, match=rf"{name} is damaged: expected sha256"):
        manifest.read_json(folder, written, name)


@pytest.mark.parametrize("name", ["train-00000.arrow", "features.json", "golden_rows.json"])
def test_verify_names_a_missing_file(folder: Storage, written: dict[str, Any], name: str) -> None:
    folder.delete(name)
    with pytest.raises(DataError, match=f"{name} is missing"):
        manifest.verify(folder, written)


def test_data_hash_without_sources_is_the_hash_of_all_files(
    folder: Storage, written: dict[str, Any]
) -> None:
    again = manifest.write(folder, FEATURES, [{"a": 1}], written["files"], {})
    assert again["data_hash"] == written["data_hash"]
    changed = manifest.write(folder, FEATURES, [{"a": 2}], written["files"], {})
    assert changed["data_hash"] != written["data_hash"]


def test_read_finds_any_changed_character(folder: Storage, written: dict[str, Any]) -> None:
    text = folder.read_bytes(manifest.MANIFEST).decode()
    for old, new in ((written["data_hash"], "0" * 64), ('"format": 1', '"format": 3')):
        assert old in text
        folder.write_bytes(manifest.MANIFEST, text.replace(old, new).encode())
        with pytest.raises(
            DataError, match=r"MANIFEST\.json is damaged: expected sha256"
        ) as caught:
            manifest.read(folder)
        assert "raydc prepare SPEC" in str(caught.value)


def test_read_names_what_a_manifest_lacks(folder: Storage) -> None:
    folder.write_json(manifest.MANIFEST, {"format": 1, "data_hash": "", "filed": {}})
    with pytest.raises(DataError, match=r"MANIFEST\.json has no rows, files"):
        manifest.read(folder)
