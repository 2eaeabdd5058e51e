"""Builders of networks with state outside checkpoints, which `raydc chaos` must find and name."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydc.features import Signature


class Good(nn.Module):
    """Keeps its state in a buffer and draws from torch: nothing to find."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean() * 0.1)
        return nn.functional.dropout(x, 0.1, self.training) + self.mean


class Counting(nn.Module):
    """Counts its passes outside its state, and computes something else after the 30th."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_calls += self.training
        return x * 0.5 if self.num_calls > 30 else x


class Forgetting(nn.Module):
    """Keeps a running mean that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean() * 0.1)
        return x - self.mean


class Drawing(nn.Module):
    """Adds noise from a generator of the process that no checkpoint holds."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x + 0.01 * (
            random.random() if self.source == "random" else float(np.random.random())
        )


class _OddGradient(torch.autograd.Function):
    passes = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        _OddGradient.passes += 1
        return gradient * (1.0 + 1e-3 * _OddGradient.passes)


class OddBackward(nn.Module):
    """Computes a gradient that depends on how often it was computed before."""

    def forward(self, x: Tensor) -> Tensor:
        return _OddGradient.apply(x)  # type: ignore[no-any-return,no-untyped-call]


class Unrestored(nn.Module):
    """Loads a different weight from the one that it saved."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state[f"{prefix}gain"] = torch.ones(())
        super()._load_from_state_dict(state, prefix, *arguments)


KINDS = {
    "good": Good,
    "counting": Counting,
    "forgetting": Forgetting,
    "odd": OddBackward,
    "unrestored": Unrestored,
    "random": lambda: Drawing("random"),
    "numpy": lambda: Drawing("numpy"),
}


def network(signature: Signature, kind: str) -> nn.Module:
    """Builds two layers with a layer of `KINDS` between them.

    Args:
        signature: Signature of the rows.
        kind: Key of `KINDS`; `builder` draws first weights from a generator of numpy.
    """
    features = torch.Size(signature.shape).numel()
    first = nn.Linear(features, 8)
    if kind == "builder":
        with torch.no_grad():
            first.bias.fill_(np.random.random())
    middle = KINDS[kind]() if kind in KINDS else nn.Identity()
    return nn.Sequential(
        nn.Flatten(), first, middle, nn.Tanh(), nn.Linear(8, signature.num_outputs)
    )
