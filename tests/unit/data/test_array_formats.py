"""NumPy files and tar files of images: rows, images, and a message for each fault."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prepared_here import prepare_here

from raydc.data import shards
from raydc.data.prepared import Prepared
from raydc.errors import DataError
from raydc.storage import sha256

NUM_ROWS = 60
LABELS = np.array(["cat", "dog"] * (NUM_ROWS // 2))


def _prepare(folder: Path, data: dict[str, Any]) -> Prepared:
    made = []
    for cut in (None, 7):
        (folder / f"cut-{cut}").mkdir(exist_ok=True)
        made.append(prepare_here(folder / f"cut-{cut}", data, rows_per_block=cut)[0])
    files = [
        {file.name: sha256(file.read_bytes()) for file in one.folder.local_path.iterdir()}
        for one in made
    ]
    assert files[0] == files[1]
    return made[0]


def _pixels(shape: tuple[int, ...] = (5, 4, 3)) -> Any:
    return np.random.default_rng(0).integers(0, 256, (NUM_ROWS, *shape), dtype=np.uint8)


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _tar(path: Path, members: list[tuple[str, bytes]]) -> dict[str, Any]:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return {"source": str(path)}


def test_arrays_of_npz_are_columns(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(NUM_ROWS, 3))
    path = tmp_path / "rows.npz"
    np.savez(path, x=numbers, city=np.array(["u", "v", "w"] * 20), label=LABELS)
    prepared = _prepare(tmp_path, {"source": str(path)})
    assert list(prepared.features.columns) == ["x_1", "x_2", "x_3", "city"]
    golden = prepared.folder.read_json("golden_rows.json")[0]
    row = int(shards.open_rows(prepared.folder, "test").ids[0])
    assert golden == {
        **{f"x_{i + 1}": numbers[row, i] for i in range(3)},
        "city": "uvw"[row % 3],
    }


def test_fields_of_npy_are_columns(tmp_path: Path) -> None:
    array = np.zeros(NUM_ROWS, dtype=[("a", "f4"), ("label", "i8")])
    array["a"], array["label"] = np.arange(NUM_ROWS), np.arange(NUM_ROWS) % 2
    np.save(tmp_path / "rows.npy", array)
    prepared = _prepare(tmp_path, {"source": str(tmp_path / "rows.npy")})
    assert prepared.features.signature.classes == ("0", "1")
    np.save(tmp_path / "plain.npy", np.stack([array["a"], array["label"]], axis=1))
    plain = _prepare(tmp_path, {"source": str(tmp_path / "plain.npy"), "target": "column_2"})
    assert list(plain.features.columns) == ["column_1"]


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
def test_arrays_of_pixels_are_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = _pixels(shape)
    np.savez_compressed(tmp_path / "rows.npz", image=pixels, label=LABELS)
    prepared = _prepare(tmp_path, {"source": str(tmp_path / "rows.npz")})
    rows = shards.open_rows(prepared.folder, "train")
    x = np.asarray(rows.gather(np.arange(len(rows)))[0])
    expected = pixels.reshape(NUM_ROWS, 5, 4, -1).transpose(0, 3, 1, 2)[rows.ids]
    np.testing.assert_array_equal(x, expected)


def _members(pixels: Any) -> list[tuple[str, bytes]]:
    members = []
    for row, image in enumerate(pixels):
        members.append((f"all/{row:03d}.png", _png(image)))
        members.append((f"all/{row:03d}.cls", LABELS[row].encode()))
    return members


def test_tar_of_images_has_the_rows_of_its_arrays(tmp_path: Path) -> None:
    pixels = _pixels()
    tar = _tar(tmp_path / "photos.tar", [("all/._000.png", b"x"), *_members(pixels)])
    prepared = _prepare(tmp_path, {**tar, "image_storage": "decoded"})
    rows = shards.open_rows(prepared.folder, "train")
    x, y, _ = (*rows.gather(np.arange(len(rows))), None)
    np.testing.assert_array_equal(np.asarray(x), pixels.transpose(0, 3, 1, 2)[rows.ids])
    assert y.tolist() == (rows.ids % 2).tolist()
    assert sum(prepared.num_rows.values()) == NUM_ROWS
    (tmp_path / "zipped.tar.gz").write_bytes(gzip.compress(Path(tar["source"]).read_bytes()))
    data = {"source": str(tmp_path / "zipped.tar.gz"), "image_storage": "decoded"}
    assert prepare_here(tmp_path, data)[0].features == prepared.features


def test_json_of_a_sample_has_columns(tmp_path: Path) -> None:
    members = [
        (f"{row}.json", json.dumps({"a": row, "label": LABELS[row]}).encode())
        for row in range(NUM_ROWS)
    ]
    prepared = _prepare(tmp_path, _tar(tmp_path / "rows.tar", members))
    assert list(prepared.features.columns) == ["a"]


def _object_array(folder: Path) -> dict[str, Any]:
    np.savez(folder / "rows.npz", a=np.array([{}, 1], dtype=object), label=np.array([0, 1]))
    return {"source": str(folder / "rows.npz")}


def _lengths(folder: Path) -> dict[str, Any]:
    np.savez(folder / "rows.npz", a=np.arange(3), label=np.arange(4))
    return {"source": str(folder / "rows.npz")}


def _shape(folder: Path) -> dict[str, Any]:
    np.savez(folder / "rows.npz", a=np.zeros((4, 2, 2, 2)), label=np.arange(4))
    return {"source": str(folder / "rows.npz")}


def _complex(folder: Path) -> dict[str, Any]:
    np.savez(folder / "rows.npz", a=np.arange(4) * 1j, label=np.arange(4))
    return {"source": str(folder / "rows.npz")}


def _cut_npz(folder: Path) -> dict[str, Any]:
    _lengths(folder)
    path = folder / "rows.npz"
    path.write_bytes(path.read_bytes()[:200])
    return {"source": str(path)}


def _cut_tar(folder: Path) -> dict[str, Any]:
    data = _tar(folder / "photos.tar", _members(_pixels((90, 90, 3))))
    content = Path(data["source"]).read_bytes()
    Path(data["source"]).write_bytes(content[: len(content) // 2])
    return data


def _no_tar(folder: Path) -> dict[str, Any]:
    (folder / "photos.tar").write_bytes(b"text" * 300)
    return {"source": str(folder / "photos.tar")}


def _two_places(folder: Path) -> dict[str, Any]:
    images = _members(_pixels())
    return _tar(folder / "photos.tar", [*images, images[0]])


def _bad_image(folder: Path) -> dict[str, Any]:
    members = _members(_pixels())
    members[4] = (members[4][0], b"no image")
    return _tar(folder / "photos.tar", members)


def _bad_json(folder: Path) -> dict[str, Any]:
    return _tar(folder / "rows.tar", [("1.json", b"{"), ("2.json", b"{}")])


FAULTS = [
    (_object_array, r"rows\.npz cannot be read: .*\n  Objects are not read"),
    (_lengths, r"rows\.npz: the arrays differ in their number of rows: 'a' has 3, 'label' has 4"),
    (_shape, r"rows\.npz: array 'a' of float64 and shape \(4, 2, 2, 2\) is not a column"),
    (_complex, r"rows\.npz: a: complex128 is not a type that a column can have"),
    (_cut_npz, r"rows\.npz cannot be read"),
    (_cut_tar, r"photos\.tar cannot be read: unexpected end of data"),
    (_no_tar, r"photos\.tar cannot be read"),
    (_two_places, r"photos\.tar: the files of all/000 are in two places"),
    (_bad_image, r"photos\.tar: sample 3: image: not a readable image"),
    (_bad_json, r"rows\.tar: 1\.json: line 1: not JSON"),
]


@pytest.mark.parametrize(("make", "message"), FAULTS, ids=[make.__name__ for make, _ in FAULTS])
def test_fault_of_an_array_or_a_tar_is_one_message(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        prepare_here(tmp_path, make(tmp_path))
    assert "\n" not in caught.value.message
    assert "report it" not in str(caught.value)


def test_sample_that_is_no_image_is_left_out_on_request(tmp_path: Path) -> None:
    prepared = _prepare(tmp_path, {**_bad_image(tmp_path), "clean": {"on_error": "quarantine"}})
    assert sum(prepared.num_rows.values()) == NUM_ROWS - 1
    listed = (prepared.folder.local_path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in listed] == [3]
