"""A network whose process dies, waits or fails at a chosen step of a chosen rank.

It can also make the training rows of rank 0 come late once.

Each fault fires once per `folder`: it leaves a file there first, which is the proof that it fired.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydc.data.shards import Rows
from raydc.features import Signature
from raydc.order import Ids

LONGEST_WAIT_S = 300.0


class Dying(nn.Module):
    """Two layers with dropout; counts the shards that it computes in training mode."""

    def __init__(
        self,
        signature: Signature,
        folder: str,
        faults: dict[str, list[int]],
        fault: str,
        waits: dict[str, Any] | None,
    ) -> None:
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
        self.folder, self.faults, self.fault = folder, faults, fault
        self.num_calls, self.waits = 0, waits or {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_calls += 1
            time.sleep(self.waits.get("step_s", 0.0))
            if self.num_calls == self.waits.get("call"):
                self.wait_for(Path(self.waits["file"]), self.waits["text"])
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            for number, call in enumerate(self.faults.get(str(rank), [])):
                if self.num_calls == call:
                    self.fire(f"fault-{rank}-{number}")
        outputs: Tensor = self.layers(x)
        return outputs

    def wait_for(self, path: Path, text: str) -> None:
        deadline_s = time.monotonic() + LONGEST_WAIT_S
        while text not in path.read_text():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{path} never said {text}")
            time.sleep(0.02)

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


def network(
    signature: Signature,
    folder: str,
    faults: dict[str, list[int]],
    fault: str = "kill",
    stall_s: float = 0.0,
    waits: dict[str, Any] | None = None,
) -> nn.Module:
    """Faults by rank, each after a number of shards that this process has computed.

    The rows stall at the third step. Before shard number `call` every rank waits until `file`
    contains `text`, and every shard takes `step_s` longer.
    """
    if stall_s:
        stall(Path(folder) / "stalled", stall_s)
    return Dying(signature, folder, faults, fault, waits)


def stall(proof: Path, seconds: float) -> None:
    """Lets rank 0 of a run wait for the rows of one step."""
    gather = Rows.gather
    calls = itertools.count(1)

    def late(rows: Rows, positions: Ids) -> tuple[Any, Any]:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if rank == 0 and next(calls) == 3 and not proof.exists():
            proof.touch()
            time.sleep(seconds)
        return gather(rows, positions)

    Rows.gather = late  # type: ignore[method-assign]


def dim(image: Tensor, generator: torch.Generator) -> Tensor:
    """A transform of training images: a random part of their brightness."""
    return (image * torch.rand((), generator=generator)).to(torch.uint8)
