"""A network whose steps are slow until a file exists, so that a test can disturb the run."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from raydc.features import Signature

_STEP_S = 0.1


class Paced(nn.Module):
    """Two layers with dropout."""

    def __init__(self, signature: Signature, hurry: str) -> None:
        super().__init__()
        features = torch.Size(signature.shape).numel()
        self.layers = nn.Sequential(
            *(
                nn.Flatten(),
                nn.Linear(features, 16),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Linear(16, signature.num_outputs),
            )
        )
        self.hurry = Path(hurry)
        self.hurries = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.hurries:
            self.hurries = self.hurry.exists()
            time.sleep(0.0 if self.hurries else _STEP_S)
        outputs: Tensor = self.layers(x)
        return outputs


def network(signature: Signature, hurry: str) -> nn.Module:
    """`hurry`: path of the file."""
    return Paced(signature, hurry)
