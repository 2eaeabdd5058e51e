"""Trials that wait instead of computing: their times and accuracies are those of LCBench, scaled.

A tiny network whose passes sleep, trained by raydc as any other: with checkpoints, logical shards
and process groups. A pass of a logical shard takes its part of a step of the curve; m workers with
a shard each are m ** 0.8 as fast as one. The network counts its steps in a buffer, and answers
validation rows with the accuracy that the curve has after so many.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydc.features import Features, Numeric, Signature

STEPS_PER_EPOCH, ROWS_PER_STEP = 10, 8
_MOST_WAIT_S = 300.0
# Set for commands, which try the network before a sweep; not for the processes of their Ray.
IN_COMMAND = "RAYDC_BENCH_IN_COMMAND"
_LOSS_PER_WORKER = 0.2
FEATURES = Features(
    Signature("vector", (1,), "float32", (), (), "classification", ("no", "yes")),
    "y",
    {"x": Numeric(0.0, 0.0, 1.0)},
)


def load_curves(file: str) -> dict[str, Any]:
    """What `bench.sweep_waiting` has written: seconds and accuracy by trial and epoch."""
    found: dict[str, Any] = json.loads(Path(file).read_text())
    return found


def wait_for_all(folder: Path, num_processes: int) -> None:
    """Returns once so many processes have come here: their start is not part of a makespan.

    Args:
        folder: Takes a file for each process.
        num_processes: Processes that are waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / str(os.getpid())
    # The time of the file is that of the first network of this process.
    if not mine.exists():
        mine.touch()
    deadline_s = time.monotonic() + _MOST_WAIT_S
    while len(os.listdir(folder)) < num_processes and time.monotonic() < deadline_s:
        time.sleep(0.05)


class Waiting(nn.Module):
    """The network.

    Args:
        trial: Number of its curve.
        file: Path of the curves.
    """

    steps: Tensor

    def __init__(self, trial: int, file: str) -> None:
        super().__init__()
        known = load_curves(file)
        self.gain = nn.Parameter(torch.ones(()))
        # A step adds the mean over its shards, which is one.
        self.register_buffer("steps", torch.zeros(()))
        self.seconds = known["seconds"][trial]
        self.accuracy = known["accuracy"][trial]
        self.pass_part = known["shard_cost"] / known["shards"] / STEPS_PER_EPOCH
        self.up, self.slots = Path(known["up"]), known["slots"]
        self.has_waited = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training and IN_COMMAND not in os.environ:
            if not self.has_waited:
                wait_for_all(self.up, self.slots)
                self.has_waited = True
            epoch = min(int(self.steps) // STEPS_PER_EPOCH, len(self.seconds) - 1)
            has_group = torch.distributed.is_initialized()
            workers = torch.distributed.get_world_size() if has_group else 1
            time.sleep(self.seconds[epoch] * self.pass_part * workers**_LOSS_PER_WORKER)
        if self.training:
            self.steps += 1
            return x * self.gain * torch.tensor([1.0, -1.0])
        # Rounded: batch sizes of a validation may differ by a worker.
        epoch = max(0, round(float(self.steps)) // STEPS_PER_EPOCH - 1)
        p = self.accuracy[min(epoch, len(self.accuracy) - 1)]
        outputs = torch.tensor([np.log(p), np.log1p(-p)], dtype=torch.float32)
        return outputs.expand(len(x), 2) + 0.0 * self.gain


def network(_signature: Signature, trial: int, file: str) -> nn.Module:
    """The builder that a spec names."""
    return Waiting(trial, file)


def score(probabilities_NK: Any, _positions_N: Any) -> float:
    """The metric: what the network has answered, which is the same for all rows."""
    return round(float(np.asarray(probabilities_NK)[0, 0]), 5)
