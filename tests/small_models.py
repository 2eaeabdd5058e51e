"""Small models with random weights, as bundles, for tests of registry, bundle and endpoint."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from raydc import bundle, models, spec
from raydc.features import Categorical, Features, Image, Numeric, Signature
from raydc.features.images import encode_png
from raydc.spec.sections import Spec
from raydc.storage import Storage

CLASSES = ("no", "yes", "perhaps")


def table_features() -> Features:
    """Features of two numbers and a category of three inputs, to three classes."""
    signature = Signature("vector", (5,), "float32", (), (), "classification", CLASSES)
    columns = {
        "age": Numeric(mean=40.0, shift=40.0, scale=10.0),
        "hours": Numeric(mean=38.0, shift=0.0, scale=40.0),
        "job": Categorical(("cook", "nurse"), has_other=True, has_missing=False),
    }
    return Features(signature, "answer", columns)


def price_features() -> Features:
    """Features of one number, to a price."""
    signature = Signature("vector", (1,), "float32", (), (), "regression")
    return Features(
        signature,
        "price",
        {"size": Numeric(50.0, 50.0, 20.0)},
        target_mean=300.0,
        target_scale=100.0,
    )


def picture_features() -> Features:
    """Features of grey 8x8 images, to three classes."""
    signature = Signature("image", (1, 8, 8), "uint8", (100.0,), (60.0,), "classification", CLASSES)
    return Features(signature, "label", {"image": Image(8, 8, 1)})


def table_rows(num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    jobs = ["cook", "nurse", "pilot"]
    return [
        {
            "age": int(rng.integers(18, 80)),
            "hours": float(rng.uniform(5, 60)),
            "job": jobs[int(rng.integers(3))],
        }
        for _ in range(num_rows)
    ]


def pictures(num_rows: int, seed: int = 0) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Random images, each uint8 [8, 8, 1]."""
    return list(np.random.default_rng(seed).integers(0, 256, (num_rows, 8, 8, 1), dtype=np.uint8))


def picture_rows(num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"image": encode_png(pixels)} for pixels in pictures(num_rows, seed)]


def small_spec(
    storage: str, name: str = "small", model: dict[str, Any] | None = None, **serve: Any
) -> Spec:
    """A resolved spec of a small model.

    Args:
        storage: Folder of the storage.
        name: Name of the spec.
        model: Section `model`; None means a small mlp.
        serve: Fields of section `serve`.
    """
    value = {
        "name": name,
        "storage": storage,
        "data": {"source": "rows.csv", "target": "answer"},
        "model": model or {"name": "mlp", "hidden": [16]},
        "serve": {"port": 0, "auth": "none", **serve},
    }
    return spec.resolve(spec.from_dict(value))


def write_bundle(
    folder: Storage, features: Features, seed: int = 0, name: str = "small", num_golden: int = 4
) -> Spec:
    """Writes a bundle with random weights.

    Args:
        folder: Folder of the new bundle.
        features: Features of the model.
        seed: Seed of the weights; different seeds give different models.
        name: Name of the spec.
        num_golden: Number of golden rows.
    """
    golden = {"table": table_rows, "image": picture_rows}.get(features.signature.kind, table_rows)(
        num_golden, 99
    )
    if features.target == "price":
        golden = [{"size": 30.0 + i} for i in range(num_golden)]
    resolved = small_spec(str(folder.local_path.parent), name)
    network = models.build(resolved.model, features.signature, seed)
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    torch.manual_seed(seed)
    bundle.write(
        folder,
        resolved,
        features,
        weights,
        golden,
        {"run": name, "seed": seed, "metrics": {"accuracy": 0.5}},
    )
    return resolved


class Slow(torch.nn.Module):
    """Sleeps for as many seconds as its largest input, and returns its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(float(x.max()))
        return x * self.gain


def slow_network(signature: Signature) -> torch.nn.Module:
    """A builder as users write them, importable from the root of the project."""
    return Slow()


def write_slow_bundle(folder: Storage, features: Features) -> None:
    """Writes a bundle whose model comes from `slow_network`."""
    resolved = small_spec(
        str(folder.local_path.parent), "slow", {"builder": "tests.small_models:slow_network"}
    )
    network = models.build(resolved.model, features.signature, 0)
    bundle.write(
        folder, resolved, features, network.state_dict(), [{"seconds": 0.0}], {"run": "slow"}
    )
