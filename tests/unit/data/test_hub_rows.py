"""Data sets of Hugging Face and torchvision, in folders that the tests write."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import pickle
import struct
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from prepared_here import prepare_here

from raydc.data import hub_rows, shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.errors import DataError, SpecError
from raydc.spec.row_sources import HuggingFaceRows
from raydc.storage import sha256

datasets = pytest.importorskip("datasets")
NUM_ROWS = 80


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _rows(num_rows: int = NUM_ROWS) -> dict[str, list[Any]]:
    choose = np.random.default_rng(0)
    return {
        "age": [int(n) for n in choose.integers(18, 80, num_rows)],
        "beats": [choose.normal(size=n % 4).round(2).tolist() for n in range(num_rows)],
        "label": [n % 2 for n in range(num_rows)],
    }


def _made(rows: dict[str, list[Any]]) -> Any:
    features = datasets.Features(
        {
            "age": datasets.Value("int32"),
            "beats": datasets.List(datasets.Value("float32")),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


def _contents(prepared: Prepared) -> dict[str, str]:
    files = sorted(prepared.folder.local_path.iterdir())
    return {file.name: sha256(file.read_bytes()) for file in files}


def _prepare(folder: Path, source: Any, **data: Any) -> Prepared:
    made = []
    for cut in (None, 17):
        (folder / f"cut-{cut}").mkdir(parents=True)
        given = {"source": source, **data}
        made.append(prepare_here(folder / f"cut-{cut}", given, rows_per_block=cut)[0])
    assert _contents(made[0]) == _contents(made[1])
    return made[0]


def _ids(prepared: Prepared) -> dict[str, set[int]]:
    names = ("train", "validation", "test")
    return {name: set(shards.open_rows(prepared.folder, name).ids.tolist()) for name in names}


@pytest.mark.parametrize("form", ["saved", "splits", "parquet"])
def test_folder_of_hugging_face_gives_its_rows(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "set"
    if form == "saved":
        _made(_rows()).save_to_disk(folder)
    elif form == "splits":
        datasets.DatasetDict({"train": _made(_rows())}).save_to_disk(folder)
    else:
        folder.mkdir()
        _made(_rows()).to_parquet(folder / "train-00000-of-00001.parquet")
    prepared = _prepare(tmp_path / "made", {"huggingface": str(folder)})
    assert prepared.features.signature.classes == ("no", "yes")
    assert prepared.features.signature.fields["beats"].form == "list"
    assert sum(prepared.num_rows.values()) == NUM_ROWS
    rows = _rows()
    ages = {row["age"] for row in read_golden_rows(prepared.folder)}
    assert ages <= set(rows["age"])


def test_ids_follow_from_content_so_that_rows_keep_their_split(tmp_path: Path) -> None:
    rows = _rows()
    for values in rows.values():
        # Equal rows are told apart by their number.
        values.append(values[7])
    shuffled = np.random.default_rng(1).permutation(NUM_ROWS + 1)
    _made(rows).save_to_disk(tmp_path / "a")
    _made({name: [v[i] for i in shuffled] for name, v in rows.items()}).save_to_disk(tmp_path / "b")
    one = _prepare(tmp_path / "one", {"huggingface": str(tmp_path / "a")})
    other = _prepare(tmp_path / "two", {"huggingface": str(tmp_path / "b")})
    assert _contents(one) == _contents(other)
    assert sum(len(ids) for ids in _ids(one).values()) == NUM_ROWS + 1
    _made({name: v[5:] for name, v in rows.items()}).save_to_disk(tmp_path / "c")
    fewer = _ids(_prepare(tmp_path / "three", {"huggingface": str(tmp_path / "c")}))
    assert all(ids <= _ids(one)[name] for name, ids in fewer.items())


def test_key_names_rows_where_there_is_one(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({**_rows(), "id": list(range(500, 580))}).save_to_disk(
        tmp_path / "a"
    )
    source = {"huggingface": str(tmp_path / "a"), "key": "id"}
    prepared = _prepare(tmp_path / "made", source)
    assert set.union(*_ids(prepared).values()) == set(range(500, 580))
    assert "id" not in prepared.features.columns


def test_images_of_hugging_face_are_images(tmp_path: Path) -> None:
    choose = np.random.default_rng(0)
    pixels = choose.integers(0, 256, (NUM_ROWS, 6, 5, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    # Paths of files: their bytes become a part of the rows.
    rows = {
        "image": [str(tmp_path / f"{number}.png") for number in range(NUM_ROWS)],
        "label": [number % 2 for number in range(NUM_ROWS)],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    prepared = _prepare(tmp_path / "made", {"huggingface": str(tmp_path / "set")})
    assert prepared.features.signature.shape == (3, 6, 5)
    png = read_golden_rows(prepared.folder)[0]["image"]
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
    assert any((found == image).all() for image in pixels)


def test_code_beside_the_rows_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    mark = tmp_path / "mark"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    _made(_rows()).to_parquet(folder / "train.parquet")
    try:
        _prepare(tmp_path / "made", {"huggingface": str(folder)})
    except DataError as error:
        assert "scripts" in error.message  # noqa: PT017 (either of both is right)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"split": "dev"}, r"there is no split 'dev'\n.*There are train"),
        ({"key": "uid"}, r"there is no column 'uid', which is the key\n.*age, beats, label"),
        ({"key": "age"}, r"rows \d+ and \d+ have the same age"),
        ({"huggingface": "no/such-set"}, r"Hugging Face data set no/such-set cannot be loaded: "),
    ],
)
def test_what_cannot_be_loaded_is_named(
    tmp_path: Path, source: dict[str, Any], message: str
) -> None:
    datasets.DatasetDict({"train": _made(_rows())}).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, {"source": {"huggingface": str(tmp_path / "set"), **source}})


def test_row_with_a_fault_is_shown(tmp_path: Path) -> None:
    rows = _rows()
    rows["beats"][3] = [1.0, float("nan")]
    rows["age"][3] = 99
    _made(rows).save_to_disk(tmp_path / "set")
    message = (
        r"Hugging Face data set .*set: row \{'age': 99.*: beats: .* has an item that is missing"
    )
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, {"source": {"huggingface": str(tmp_path / "set")}})


def test_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets\n.*raydc\[huggingface\]"):
        prepare_here(tmp_path, {"source": {"huggingface": "a/b"}})


def _mnist(folder: Path, compressed: bool = False) -> Any:
    """Writes MNIST of 60 rows and 20, as its own files."""
    choose = np.random.default_rng(0)
    folder.mkdir(parents=True)
    pixels = choose.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    for prefix, num_rows in (("train", 60), ("t10k", 20)):
        images = struct.pack(">4i", 0x803, num_rows, 28, 28) + pixels[:num_rows].tobytes()
        labels = struct.pack(">2i", 0x801, num_rows) + bytes(n % 10 for n in range(num_rows))
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(content) if compressed else content)
    return pixels


def test_mnist_of_torchvision_gives_images_and_labels(tmp_path: Path) -> None:
    pixels = _mnist(tmp_path / "root" / "MNIST" / "raw")
    source = {"torchvision": "MNIST", "folder": str(tmp_path / "root")}
    parts = {"train": source, "test": {**source, "split": "test"}}
    prepared = _prepare(tmp_path / "made", parts)
    assert prepared.features.signature.classes == tuple(map(str, range(10)))
    assert prepared.features.signature.shape == (1, 28, 28)
    assert prepared.num_rows["test"] == 20
    x, y = shards.open_rows(prepared.folder, "test").gather(np.arange(20))
    for image, label in zip(np.asarray(x), y, strict=True):
        row = next(n for n in range(20) if (pixels[n] == image[0]).all())
        assert label == row % 10


def test_files_that_are_missing_are_downloaded_if_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    _mnist(mirror, compressed=True)
    files = [
        (name, hashlib.md5((mirror / name).read_bytes()).hexdigest())
        for name in sorted(path.name for path in mirror.iterdir())
    ]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", files)
    source = {"torchvision": "MNIST", "folder": str(tmp_path / "root")}
    with pytest.raises(DataError, match=r"MNIST in .* cannot be loaded: .*\n.*download: true"):
        prepare_here(tmp_path, {"source": source})
    handler = partial(SimpleHTTPRequestHandler, directory=str(mirror))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirrors = [f"http://127.0.0.1:{server.server_port}/"]
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
        prepared = _prepare(tmp_path / "made", {**source, "download": True})
        server.shutdown()
    assert sum(prepared.num_rows.values()) == 60


def test_pickles_of_cifar_are_opened_only_if_torchvision_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = torchvision.datasets.CIFAR10
    folder = tmp_path / made.base_folder
    folder.mkdir()
    choose = np.random.default_rng(0)
    names = [name for name, _ in (*made.train_list, *made.test_list)]
    for name in names:
        data = choose.integers(0, 256, (12, 3072), dtype=np.uint8)
        (folder / name).write_bytes(
            pickle.dumps({"data": data, "labels": [n % 10 for n in range(12)]})
        )
    classes = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    source = {"torchvision": "CIFAR10", "folder": str(tmp_path)}
    with pytest.raises(DataError, match=r"CIFAR10 in .* cannot be loaded: .*corrupted"):
        prepare_here(tmp_path, {"source": source})

    def known(name: str) -> tuple[str, str]:
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    monkeypatch.setattr(made, "train_list", [known(name) for name, _ in made.train_list])
    monkeypatch.setattr(made, "test_list", [known(name) for name, _ in made.test_list])
    meta = {**made.meta, "md5": known("batches.meta")[1]}
    monkeypatch.setattr(made, "meta", meta)
    prepared = _prepare(tmp_path / "made", source)
    assert prepared.features.signature.classes == tuple(sorted(classes))
    assert prepared.features.signature.shape == (3, 32, 32)


def test_class_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="torchvision"):
        prepare_here(tmp_path, {"source": {"torchvision": "FakeData", "folder": "x"}})


def test_label_without_a_class_is_missing(tmp_path: Path) -> None:
    rows = _rows(4)
    rows["label"] = [-1, 0, 1, None]
    _made(rows).save_to_disk(tmp_path / "set")
    source = HuggingFaceRows(huggingface=str(tmp_path / "set"))
    table, _ = hub_rows.read_rows("a set", source)
    assert table.column("label").to_pylist() == [None, "no", "yes", None]
