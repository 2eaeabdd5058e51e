"""Transforms of a user: some draw from the generator of their row, others must be refused."""

from __future__ import annotations

import itertools
import os
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CALLS = itertools.count()


def speckle(image: Tensor, generator: torch.Generator, amount: int = 20) -> Tensor:
    noise = torch.randint(-amount, amount + 1, image.shape, generator=generator)
    return (image + noise).clamp(0, 255).to(torch.uint8)


def speckle_global(image: Tensor, generator: torch.Generator, amount: int = 20) -> Tensor:
    """Draws as most code does, without a generator."""
    noise = torch.rand_like(image, dtype=torch.float32).mul(2 * amount).sub(amount)
    return (image + noise).clamp(0, 255).to(torch.uint8)


def weighted(image: Tensor, generator: torch.Generator, amount: int = 20) -> Tensor:
    """Seeds a generator of NumPy from that of the row."""
    seed = int(torch.randint(2**62, (), generator=generator))
    scale = np.random.default_rng(seed).beta(amount, amount)
    return (image * scale).to(torch.uint8)


def as_floats(image: Tensor, generator: torch.Generator) -> Tensor:
    return image.float()


def as_array(image: Tensor, generator: torch.Generator) -> Any:
    return image.numpy()


def flat(image: Tensor, generator: torch.Generator) -> Tensor:
    return image.flatten(1)


def broken(image: Tensor, generator: torch.Generator) -> Tensor:
    return image * (1 // 0)


def of_python(image: Tensor, generator: torch.Generator) -> Tensor:
    return image.flip(0) if random.random() < 0.5 else image


def of_numpy(image: Tensor, generator: torch.Generator) -> Tensor:
    return image.flip(0) if np.random.rand() < 0.5 else image


def hidden(image: Tensor, generator: torch.Generator) -> Tensor:
    """Draws inside a layer, where no generator can be given."""
    return nn.functional.dropout(image.float(), 0.5).clamp(0, 255).to(torch.uint8)


def of_system(image: Tensor, generator: torch.Generator) -> Tensor:
    return image.roll(1 + os.urandom(1)[0] % 11, dims=2)


def counts(image: Tensor, generator: torch.Generator) -> Tensor:
    """Keeps state between two images."""
    return image.roll(next(_CALLS) % 5, dims=2)
