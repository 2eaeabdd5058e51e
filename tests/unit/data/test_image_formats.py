"""IDX files, and folders of images."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared_here import prepare_here

from raydc.data import image_formats, shards
from raydc.errors import DataError
from raydc.features import images


def test_read_idx_checks_the_header_against_the_content() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = bytes([0, 0, 8, 3]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
    np.testing.assert_array_equal(image_formats.read_idx(content, "file", 3), array)
    for broken in (b"", content[:3], content[:9], content[:-1], content + b"x"):
        with pytest.raises(DataError, match=r"^file: "):
            image_formats.read_idx(broken, "file", 3)


def test_photograph_is_upright_in_the_data_set_and_at_the_endpoint(tmp_path: Path) -> None:
    photos: dict[str, bytes] = {}
    for row in range(40):
        buffer, exif = io.BytesIO(), Image.Exif()
        # A phone that is held upright writes a lying image and orientation 6.
        exif[0x0112] = 6
        pixels = np.full((4, 6), row, dtype=np.uint8)
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(buffer, format="PNG", exif=exif)
        photos[f"{'ab'[row % 2]}/{row:02d}.png"] = buffer.getvalue()
    for name, content in photos.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
    prepared, _ = prepare_here(tmp_path, {"source": str(tmp_path / "photos")})
    assert prepared.features.signature.shape == (1, 6, 4)
    rows = shards.open_rows(prepared.folder, "train")
    files = [photos[name] for name in sorted(photos)]
    asked = prepared.features.apply({"image": [files[row] for row in rows.ids >> 40]})
    np.testing.assert_array_equal(rows.gather(np.arange(len(rows)))[0], asked)
    assert (asked[:, 0, 0, 3] == 255).all()


def test_files_of_json_lines_may_lack_the_image_in_all_their_rows(tmp_path: Path) -> None:
    picture = images.encode_png(np.arange(24, dtype=np.uint8).reshape(4, 6, 1))
    for name, row in (("0", {"label": "a"}), ("1", {"label": "a", "image": picture})):
        rows = [row if number % 2 else {**row, "label": "b"} for number in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    features = {"columns": {"image": "image"}}
    data = {"source": f"{tmp_path}/*.jsonl", "features": features, "clean": {"missing": "drop"}}
    prepared, lines = prepare_here(tmp_path, data)
    assert sum(prepared.num_rows.values()) == 60
    assert any("; 60 dropped" in line for line in lines)
