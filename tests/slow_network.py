"""A network of a user that takes as long as its input says. Runs in tests and in replicas.

Replicas import it as `tests.slow_network` from the root of the project, so it may import no other
module of the tests.
"""

from __future__ import annotations

import time

import torch

from raydc.features import Signature


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
