"""The task of bench/serve.py that all contenders share: the network, its inputs and its answer."""

from __future__ import annotations

import io
import statistics
import time
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import nn

from raydc import models
from raydc.features import Signature
from raydc.spec.model import Cnn, Mlp, Torchvision

MODEL_OF_TASK = {"mlp-json": "mlp", "cnn-json": "cnn", "mlp-binary": "mlp", "resnet18": "resnet18"}
JSON_TASKS = ("mlp-json", "cnn-json")
SHAPES = {"mlp": (1, 28, 28), "cnn": (1, 28, 28), "resnet18": (3, 224, 224)}
MODELS: dict[str, Any] = {
    "mlp": Mlp(name="mlp", hidden=[512, 256, 128]),
    "cnn": Cnn(name="cnn"),
    "resnet18": Torchvision(name="resnet18"),
}
CLASSES = tuple("0123456789")
BATCH = {"mlp": 64, "cnn": 64, "resnet18": 8}
BATCH_TIMEOUT_S = 0.002

Array = np.ndarray[Any, Any]


def signature(model: str) -> Signature:
    """Signature of a network: uint8 images of its shape, ten classes."""
    channels = SHAPES[model][0]
    return Signature(
        "image",
        SHAPES[model],
        "uint8",
        (127.5,) * channels,
        (127.5,) * channels,
        "classification",
        CLASSES,
    )


def network(model: str) -> nn.Module:
    """The network in evaluation mode, with one thread."""
    torch.set_num_threads(1)
    return models.build(MODELS[model], signature(model), 0).eval()


def decode(task: str, content: Any) -> Array:
    """Converts the content of a request to an array [C, H, W]."""
    if task in JSON_TASKS:
        return np.array(content, dtype=np.uint8).reshape(1, 28, 28)
    if task == "mlp-binary":
        return np.frombuffer(content, dtype=np.uint8).reshape(1, 28, 28)
    return np.asarray(Picture.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)


def forward(net: nn.Module, x: Array) -> Array:
    """Computes probabilities [B, 10] of images [B, C, H, W]."""
    with torch.inference_mode():
        scores: Array = net(torch.tensor(x)).softmax(dim=1).numpy()
    return scores


def answer(scores: Array) -> dict[str, Any]:
    """JSON values of an answer: label, score, and the scores of all classes."""
    best = int(scores.argmax())
    return {
        "label": CLASSES[best],
        "score": float(scores[best]),
        "scores": dict(zip(CLASSES, scores.tolist(), strict=True)),
    }


def bare_s(task: str) -> float:
    """Median seconds of a forward pass of one row on an array that is ready."""
    net = network(MODEL_OF_TASK[task])
    x = np.zeros((1, *SHAPES[MODEL_OF_TASK[task]]), dtype=np.uint8)
    times: list[float] = []
    deadline = time.perf_counter() + 2.0
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        forward(net, x)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
