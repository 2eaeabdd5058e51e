"""Images that stay files: the same pixels as decoded ones, and a decoder that is checked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures
from prepared_here import prepare_here

from raydc.checksummed_folder import MANIFEST
from raydc.data import encoded_images, shards
from raydc.data.prepared import Prepared
from raydc.errors import DataError
from raydc.storage import seal

NUM_IMAGES = 60


def _folder(folder: Path, format_: str = "JPEG", sizes: tuple[int, ...] = (40,)) -> int:
    """A folder of smooth photographs of two classes; returns the bytes of all files."""
    choose, num_bytes = np.random.default_rng(0), 0
    for row in range(NUM_IMAGES):
        small = choose.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        side = sizes[row % len(sizes)]
        picture = Pictures.fromarray(small).resize((side, side), Pictures.Resampling.BICUBIC)
        # A grey image among colours, and one that a camera has turned.
        picture = picture.convert("L") if row == 7 else picture
        exif = Pictures.Exif()
        exif[0x0112] = 6 if row == 11 else 1
        content = io.BytesIO()
        picture.save(content, format_, exif=exif)
        file = folder / ("cat", "dog")[row % 2] / f"{row}.{format_.lower()}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
        num_bytes += len(content.getvalue())
    return num_bytes


def _prepare(place: Path, source: Path, **data: Any) -> tuple[Prepared, list[str]]:
    place.mkdir()
    return prepare_here(place, {"source": str(source), **data})


def _all(prepared: Prepared, split: str = "train") -> tuple[Any, Any]:
    rows = shards.open_rows(prepared.folder, split)
    return rows.gather(np.arange(len(rows)))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("sizes", [(40,), (40, 31)])
def test_files_become_the_pixels_that_are_stored_otherwise(
    tmp_path: Path, format_: str, sizes: tuple[int, ...]
) -> None:
    _folder(tmp_path / "photos", format_, sizes)
    size = {"features": {"image_size": [24, 20]}} if len(sizes) > 1 else {}
    made = [
        _prepare(tmp_path / storage, tmp_path / "photos", image_storage=storage, **size)[0]
        for storage in ("decoded", "encoded")
    ]
    assert made[0].features == made[1].features
    assert made[0].data_hash != made[1].data_hash
    for split in shards.SPLITS:
        (pixels, y), (decoded, again) = (_all(prepared, split) for prepared in made)
        assert isinstance(decoded, np.ndarray)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, pixels)
        np.testing.assert_array_equal(again, y)


def test_files_take_the_space_of_the_files(tmp_path: Path) -> None:
    num_bytes = _folder(tmp_path / "photos", sizes=(200,))
    prepared, lines = _prepare(tmp_path / "set", tmp_path / "photos", image_storage="encoded")
    files = json.loads(prepared.folder.read_bytes(MANIFEST))["files"]
    stored = sum(entry["bytes"] for name, entry in files.items() if name.endswith(".arrow"))
    assert stored <= 1.05 * num_bytes + 3 * 3000
    assert "images of image stay files" in "\n".join(lines)


def test_small_sets_and_arrays_are_pixels_by_default(tmp_path: Path) -> None:
    _folder(tmp_path / "photos")
    prepared, lines = _prepare(tmp_path / "set", tmp_path / "photos")
    assert "images" not in prepared.folder.read_json(MANIFEST)
    assert not any("stay files" in line for line in lines)


def test_large_sets_are_files_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder(tmp_path / "photos")
    monkeypatch.setattr(encoded_images, "_SMALL_SET_BYTES", 1000)
    prepared, _ = _prepare(tmp_path / "set", tmp_path / "photos")
    assert prepared.folder.read_json(MANIFEST)["images"]["columns"] == ["image"]
    assert prepared.folder.read_json(MANIFEST)["format"] == 2


def test_other_pixels_of_the_probe_are_refused(tmp_path: Path) -> None:
    _folder(tmp_path / "photos")
    prepared, _ = _prepare(tmp_path / "set", tmp_path / "photos", image_storage="encoded")
    facts = prepared.folder.read_json(MANIFEST)
    facts["images"] |= {"probe_sha256": "0" * 64, "decoder": "Pillow 1.1"}
    prepared.folder.write_json(MANIFEST, seal(facts))
    with pytest.raises(
        DataError, match=r"prepared with Pillow 1\.1, and this machine has Pillow"
    ) as caught:
        shards.open_rows(prepared.folder, "train")
    assert "image_storage: decoded" in str(caught.value.hint)
