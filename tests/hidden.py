"""Builders of networks that keep state where no checkpoint looks: what `raydc chaos` has to find and name."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydc.features import Signature


class Good(nn.Module):
    """Keeps what it changes in a buffer, and draws from torch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean() * 0.1)
        return nn.functional.dropout(x, 0.1, self.training) + self.mean


class Counting(nn.Module):
    """Does something else after its 30th pass."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_calls += self.training
        return x * 0.5 if self.num_calls > 30 else x


class Forgetting(nn.Module):
    """Its running mean is in no checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean() * 0.1)
        return x - self.mean


class Drawing(nn.Module):
    """Adds noise from a generator of the process."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x + 0.01 * (
            random.random() if self.source == "random" else float(np.random.random())
        )


class _Odd(torch.autograd.Function):
    passes = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        _Odd.passes += 1
        return gradient * (1.0 + 1e-3 * _Odd.passes)


class OddBackward(nn.Module):
    """Its gradient depends on how often it was asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return _Odd.apply(x)  # type: ignore[no-any-return,no-untyped-call]


class Unrestored(nn.Module):
    """Its weight does not come out of its state as it went in."""

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
    """Two layers with one of these between them."""
    features = torch.Size(signature.shape).numel()
    first = nn.Linear(features, 8)
    if kind == "builder":
        with torch.no_grad():
            first.bias.fill_(np.random.random())
    middle = KINDS[kind]() if kind in KINDS else nn.Identity()
    return nn.Sequential(
        nn.Flatten(), first, middle, nn.Tanh(), nn.Linear(8, signature.num_outputs)
    )
