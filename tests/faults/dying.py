"""A network whose process dies, waits or fails at a chosen step of a chosen rank: the injector of the fault tests.

Each fault fires once per `folder`: it leaves a file there first, which is the proof that it fired.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from raydc.features import Signature

LONGEST_WAIT_S = 300.0


class Dying(nn.Module):
    """Two layers with dropout; counts the shards that it computes in training mode."""

    def __init__(self, signature: Signature, folder: str, faults: dict[str, list[int]], fault: str) -> None:
        super().__init__()
        features = torch.Size(signature.shape).numel()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, signature.num_outputs))
        )
        self.folder, self.faults, self.fault = folder, faults, fault
        self.num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_calls += 1
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            for number, call in enumerate(self.faults.get(str(rank), [])):
                if self.num_calls == call:
                    self.fire(f"fault-{rank}-{number}")
        outputs: Tensor = self.layers(x)
        return outputs

    def fire(self, name: str) -> None:
        if self.fault == "bug":
            raise ValueError("the cat sat on the tensor")
        try:
            (Path(self.folder) / name).touch(exist_ok=False)
        except FileExistsError:
            return
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(LONGEST_WAIT_S)


def network(signature: Signature, folder: str, faults: dict[str, list[int]], fault: str = "kill") -> nn.Module:
    """Faults by rank: after how many of its own shards of this process."""
    return Dying(signature, folder, faults, fault)
