"""The specs of examples/seeds: loaded as they are, and run small on data that the tests write."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from prepared_here import prepare_here

from raydc import bundle, train
from raydc import spec as specs
from raydc.cli.early_checks import check_early
from raydc.data.prepared import Prepared
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events

SMALL = {"train.global_batch_size": 16, "scaling.num_workers": 0, "serve": None}


def write_line(folder: Path, root: Path) -> Path:
    """What the script of the example writes."""
    place = root / "examples" / "seeds" / "make_line.py"
    location = importlib.util.spec_from_file_location("make_line", place)
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    module.write(folder / "line.csv")
    return folder / "line.csv"


def write_digits(folder: Path, root: Path) -> Path:
    """Files like those of MNIST: a bright square in a place that the class says."""
    draws, folder = np.random.default_rng(0), folder / "digits"
    folder.mkdir()
    for part, num_rows in (("train", 160), ("t10k", 40)):
        labels = (np.arange(num_rows) % 10).astype(np.uint8)
        images = draws.integers(0, 60, (num_rows, 28, 28)).astype(np.uint8)
        for row, label in enumerate(labels):
            top, left = 2 + 12 * (label % 2), 2 + 5 * (label // 2)
            images[row, top : top + 8, left : left + 4] += 180
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    return folder


def write_photographs(folder: Path, root: Path) -> Path:
    """A folder per class and part, with JPEG files that differ in size."""
    draws, folder = np.random.default_rng(0), folder / "photographs"
    for row in range(40):
        label, part = "ab"[row % 2], "train" if row < 32 else "test"
        path = folder / part / label / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 120, (40 + row % 3, 44, 3)).astype(np.uint8)
        pixels[..., "ab".index(label)] += 100
        Image.fromarray(pixels).save(path)
    return folder


SEEDS: dict[str, tuple[Callable[[Path, Path], Path], dict[str, Any]]] = {
    "linear": (write_line, {}),
    "mnist_augmented": (write_digits, {"train.epochs": 2}),
    "mnist_recall": (write_digits, {"train.epochs": 2}),
    "cnn_32": (write_photographs, {"train.epochs": 2}),
    # Images are made smaller in the network, and the weights are those that the test saves.
    "resnet50_frozen": (write_photographs, {"train.epochs": 2, "model.input_size": 32}),
    # Its own size; the steps are few.
    "image_folder": (write_photographs, {"train.epochs": 1, "model.channels": [4, 4, 4, 4]}),
}


def write_resnet50(path: Path) -> dict[str, torch.Tensor]:
    """Random weights of a ResNet-50 for a thousand classes, as a program of torchvision saves."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    weights = resnet50().state_dict()
    torch.save(weights, path)
    return weights


def run(
    name: str, root: Path, folder: Path, more: dict[str, Any] | None = None
) -> tuple[ResolvedSpec, Prepared, Storage]:
    """Runs a seed small, without Ray; returns its spec, data and run folder."""
    write, changes = SEEDS[name]
    given = specs.load(root / "examples" / "seeds" / f"{name}.yaml")
    source = str(write(folder, root))
    small = specs.with_values(
        given,
        {
            **SMALL,
            **changes,
            **(more or {}),
            "storage": str(folder / "storage"),
            "data.source": source,
        },
    )
    spec = specs.resolve(small)
    check_early(spec)
    data, _ = prepare_here(folder, specs.to_dict(given)["data"] | {"source": source}, given.name)
    run_folder = Storage(spec.storage) / "runs" / name
    train.run(spec, data, run_folder, lambda line: None)
    return spec, data, run_folder


def epochs_of(folder: Storage) -> list[dict[str, Any]]:
    return [line for line in events.read(folder, "metrics") if line["kind"] == "epoch"]


def weights_of(folder: Storage) -> dict[str, Any]:
    return safetensors.numpy.load(folder.read_bytes("model/model.safetensors"))


def test_every_seed_is_tested_and_named_in_the_readme(root: Path) -> None:
    folder = root / "examples" / "seeds"
    specs_there = {path.stem for path in folder.glob("*.yaml")}
    assert set(SEEDS) <= specs_there
    text = (folder / "README.md").read_text()
    assert not {name for name in specs_there if f"{name}.yaml" not in text}


def test_line_is_found(root: Path, tmp_path: Path) -> None:
    spec, _, folder = run("linear", root, tmp_path)
    loaded = bundle.load(folder / "model")
    zero, one = (loaded.predict_rows([{"x": value}])[0]["value"] for value in (0.0, 1.0))
    assert zero == pytest.approx(1.0, abs=0.1)
    assert one - zero == pytest.approx(2.0, abs=0.1)
    assert len(epochs_of(folder)) == spec.train.epochs


@pytest.mark.parametrize("name", ["mnist_augmented", "mnist_recall"])
def test_digits_are_learned(root: Path, tmp_path: Path, name: str) -> None:
    _, _, folder = run(name, root, tmp_path)
    first, last = epochs_of(folder)
    assert last["train_loss"] < first["train_loss"]
    widths = [len(value) for key, value in weights_of(folder).items() if key.endswith("weight")]
    expected = [512, 256, 128, 10] if name == "mnist_augmented" else [128, 10]
    assert sorted(widths) == sorted(expected)
    assert ("recall" in last) == (name == "mnist_recall")


def test_photographs_of_32_pixels_have_an_accuracy_after_each_epoch(
    root: Path, tmp_path: Path
) -> None:
    _, data, folder = run("cnn_32", root, tmp_path)
    assert data.features.signature.shape == (3, 32, 32)
    assert [line["epoch"] for line in epochs_of(folder)] == [1, 2]
    assert all(0.0 <= line["accuracy"] <= 1.0 for line in epochs_of(folder))


def test_photographs_of_224_pixels_are_normalised_as_imagenet(root: Path, tmp_path: Path) -> None:
    _, data, folder = run("image_folder", root, tmp_path)
    assert data.features.signature.shape == (3, 224, 224)
    weights = weights_of(folder)
    assert weights["input.mean"].flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert weights["input.scale"].flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


@pytest.mark.soak
def test_resnet50_trains_a_new_head_on_a_body_that_is_computed_once(
    root: Path, tmp_path: Path
) -> None:
    given = write_resnet50(tmp_path / "resnet50.pth")
    more = {
        "model.weights": str(tmp_path / "resnet50.pth"),
        "model.normalisation": {
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    }
    spec, data, folder = run("resnet50_frozen", root, tmp_path, more)
    assert spec.model.weights_sha256 is not None
    weights = weights_of(folder)
    for name, tensor in given.items():
        if not name.startswith("fc."):
            assert np.array_equal(weights[f"body.{name}"], tensor.numpy()), name
    assert weights["body.fc.weight"].shape == (2, 2048)
    (text,) = (line["text"] for line in events.read(folder, "events") if line["kind"] == "frozen")
    assert "frozen layers are computed once for" in text
    (key,) = data.folder.names("outputs")
    num_kept = sum(name.endswith(".npy") for name in data.folder.names(f"outputs/{key}"))
    assert num_kept == 2
    # What is served is the whole network.
    loaded = bundle.load(folder / "model")
    loaded.check_golden()
