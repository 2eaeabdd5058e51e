"""Small models with random weights, as bundles, for tests of registry, bundle and endpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from window_rows import window_requests

from raydc import bundle, models, spec
from raydc.features import (
    Categorical,
    Features,
    Field,
    Image,
    NumberList,
    Numeric,
    Signature,
    text_column,
)
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


def label_features() -> Features:
    """Features of the same table, to any of three labels with thresholds of their own."""
    table = table_features()
    signature = Signature("vector", (5,), "float32", (), (), "multilabel", CLASSES)
    return Features(signature, "answer", table.columns, label_thresholds=(0.4, 0.5, 0.6))


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


MOODS = ("what a fine day", "a sad song", "so so", "grüße 😀", "")


def text_features() -> Features:
    """Features of a text and a number, to three classes; no training row lacked a text."""
    counts = {b"what": 3, b" a": 9, b" fine": 4, b" day": 5, b" sad": 2, b" song": 2}
    body = text_column.learn(counts, 270, 12, "none")
    fields = {"columns": Field("array", "float32", (1,)), "body": body.field}
    signature = Signature("record", (), "", (), (), "classification", CLASSES, fields)
    columns = {"hour": Numeric(12.0, 12.0, 6.0), "body": body}
    return Features(signature, "mood", columns, always_given=("body",))


def text_rows(num_rows: int) -> list[dict[str, Any]]:
    return [{"hour": row, "body": MOODS[row % len(MOODS)]} for row in range(num_rows)]


def series_features() -> Features:
    """Features of a list, a list of pairs, an array and a number, to three classes."""
    columns = {
        "hour": Numeric(12.0, 12.0, 6.0),
        "beats": NumberList((70.0,), (70.0,), (9.0,), 12),
        "path": NumberList((1.0, -2.0), (1.0, -2.0), (2.0, 0.5), 8, has_width=True),
        "spectrum": NumberList((0.5, 0.25, 1.0), (0.5, 0.25, 1.0), (1.0, 2.0, 3.0), 0),
    }
    lists = {name: one.field for name, one in columns.items() if isinstance(one, NumberList)}
    fields = {"columns": Field("array", "float32", (1,)), **lists}
    signature = Signature("record", (), "", (), (), "classification", CLASSES, fields)
    return Features(signature, "state", columns, always_given=("beats", "spectrum"))


def series_rows(num_rows: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(num_rows)
    return [
        {
            "hour": row,
            "beats": rng.normal(70, 9, row % 5).round(2).tolist(),
            "path": rng.normal(size=(row % 3, 2)).round(2).tolist(),
            "spectrum": rng.normal(size=3).round(2).tolist(),
        }
        for row in range(num_rows)
    ]


def post_features() -> Features:
    """Features of an image first, then a text and a number, to three classes."""
    of_text = text_features()
    fields = {
        "columns": of_text.signature.fields["columns"],
        "photo": Field("array", "uint8", (1, 8, 8), mean=(100.0,), scale=(60.0,)),
        "body": of_text.signature.fields["body"],
    }
    signature = Signature("record", (), "", (), (), "classification", CLASSES, fields)
    columns = {"photo": Image(8, 8, 1), **of_text.columns}
    return Features(signature, "verdict", columns, always_given=("body",))


def post_rows(num_rows: int) -> list[dict[str, Any]]:
    photos = picture_rows(num_rows)
    return [
        {**row, "photo": photo["image"]}
        for row, photo in zip(text_rows(num_rows), photos, strict=True)
    ]


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
    if features.target == "mood":
        golden = text_rows(num_golden)
    elif features.target == "state":
        golden = series_rows(num_golden)
    elif features.target == "verdict":
        golden = post_rows(num_golden)
    elif features.target == "load":
        golden = window_requests(num_golden)
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


def write_slow_bundle(folder: Storage, features: Features) -> None:
    """Writes a bundle whose model comes from `slow_network`."""
    resolved = small_spec(
        str(folder.local_path.parent), "slow", {"builder": "tests.slow_network:slow_network"}
    )
    network = models.build(resolved.model, features.signature, 0)
    bundle.write(
        folder, resolved, features, network.state_dict(), [{"seconds": 0.0}], {"run": "slow"}
    )
