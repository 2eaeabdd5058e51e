"""Small networks of a user, with layers that the built-in networks do not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydc.features import Signature


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


def residual(signature: Signature, channels: int = 8, blocks: int = 2) -> nn.Module:
    """Residual blocks with batch normalisation, then an average over the image."""
    stem = nn.Conv2d(signature.shape[0], channels, 3, padding=1, bias=False)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, signature.num_outputs)]
    body = [_Residual(channels) for _ in range(blocks)]
    return nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU(), *body, *head).to(
        memory_format=torch.channels_last
    )


def squared_hinge(outputs: Tensor, targets: Tensor, margin: float = 1.0) -> Tensor:
    """A loss of each row: how far other classes come near the right one."""
    right = outputs.gather(1, targets[:, None])
    others = torch.ones_like(outputs).scatter(1, targets[:, None], 0.0)
    return ((margin - right + outputs).clamp_min(0.0).square() * others).sum(1)


def brier(scores: Any, targets: Any) -> float:
    """A metric of probabilities: the squared distance from certainty about the right class."""
    return float(((scores - np.eye(scores.shape[1])[targets]) ** 2).sum(1).mean())


def largest_error(values: Any, targets: Any) -> float:
    """A metric of a regression, in units of the target."""
    return float(np.abs(values - targets).max())


def centred(outputs: Tensor, targets: Tensor) -> Tensor:
    """No loss of a row: it depends on the mean of the others."""
    return (outputs - outputs.mean(0)).gather(1, targets[:, None]).squeeze(1)


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """No loss of a row: one number for all."""
    return torch.nn.functional.cross_entropy(outputs, targets)


def without_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that nothing can be learnt from."""
    return (outputs.argmax(1) != targets).float()


def fails(*_: Any) -> float:
    """Raises."""
    raise ZeroDivisionError("no rows of that kind")


class _Patches(nn.Module):
    """A transformer encoder over the rows of an image."""

    def __init__(self, signature: Signature, width: int, dropout: float) -> None:
        super().__init__()
        channels, height, side = signature.shape
        self.embed = nn.Linear(channels * side, width)
        self.place = nn.Parameter(torch.zeros(height, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, signature.num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        return self.head(self.encoder(self.embed(rows) + self.place).mean(1))


def transformer(signature: Signature, width: int = 16, dropout: float = 0.1) -> nn.Module:
    """Two layers of attention and feed-forward; without dropout torch takes its fused attention."""
    return _Patches(signature, width, dropout)


def worst_step(values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """A metric of forecasts of several steps: the mean error of the step that has the largest."""
    return float(np.abs(values - expected).mean(axis=0).max())
