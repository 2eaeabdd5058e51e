"""A network whose passes wait until a file exists, so that other workers can join its training.

It also fails while other files exist: `FILE.wide`, the larger one of two networks, in the last of
the workers that train it; and `FILE.together`, in all workers of a group.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from raydc.features import Signature

_PASS_S = 0.1
# Later ones wait for longer, so that helpers come in time on a busy machine.
_LATER_S, _NUM_SOON = 0.5, 40
_WIDE = 16
# The first passes of a training come from elsewhere.
_NUM_TRIED = 4


class Waiting(nn.Module):
    """Two layers with dropout.

    Args:
        signature: Signature of the rows.
        width: Outputs of the first layer.
        file: Path of the file.
    """

    def __init__(self, signature: Signature, width: int, file: str) -> None:
        super().__init__()
        features = torch.Size(signature.shape).numel()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.2)
        )
        self.last = nn.Linear(width, signature.num_outputs)
        self.file = Path(file)
        self.hurries = False
        self.num_passes = 0

    def _fail(self) -> None:
        self.num_passes += 1
        is_grouped = distributed.is_initialized()
        is_last = not is_grouped or distributed.get_rank() == distributed.get_world_size() - 1
        is_due = self.num_passes > _NUM_TRIED and self.last.in_features == _WIDE and is_last
        if is_due and Path(f"{self.file}.wide").exists():
            raise ValueError("these rows do not fit")
        if is_grouped and Path(f"{self.file}.together").exists():
            raise ValueError("this group does not fit")

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._fail()
        if self.training and not self.hurries:
            self.hurries = self.file.exists()
            pass_s = _PASS_S if self.num_passes < _NUM_SOON else _LATER_S
            time.sleep(0.0 if self.hurries else pass_s)
        outputs: Tensor = self.last(self.layers(x))
        return outputs


def network(signature: Signature, width: int, file: str) -> nn.Module:
    """The builder that a spec names; the arguments are those of `Waiting`."""
    return Waiting(signature, width, file)
