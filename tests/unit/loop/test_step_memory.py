"""When the tensors of a step move into huge pages, and which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import training_spec, weights_hash, write_pictures

from raydc.data import prepared
from raydc.loop import step_memory, worker
from raydc.models import networks
from raydc.storage import Storage


@pytest.mark.parametrize("train", [{}, {"ema_decay": 0.9}], ids=["plain", "averaged"])
def test_all_that_a_step_uses_moves_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: dict[str, Any]
) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")))
    spec = training_spec(str(tmp_path), train={"epochs": 3, "optimizer": "adamw", **train})
    worker.fit(spec, Storage(str(tmp_path / "whole")), data)
    moved: list[list[tuple[int, ...]]] = []

    def keep(tensors: Any) -> int:
        moved.append([tuple(one.shape) for one in tensors])
        return 0

    monkeypatch.setattr(step_memory, "use_huge_pages", keep)
    monkeypatch.setattr(step_memory, "STEPS_BEFORE_MOVE", 4)
    worker.fit(spec, Storage(str(tmp_path / "moved")), data)
    (shapes,) = moved
    # Weight, gradient and two moments, and the average.
    copies = 5 if train else 4
    network = networks.build(spec.model, prepared.load(data).features.signature, spec.seed)
    for shape in {tuple(one.shape) for one in network.parameters()}:
        assert shapes.count(shape) % copies == 0
        assert shapes.count(shape) >= copies
    steps = [
        int(name.split("_")[1]) for name in Storage(str(tmp_path / "whole")).names("checkpoints")
    ]
    hashes = [weights_hash(Storage(str(tmp_path / one)), max(steps)) for one in ("whole", "moved")]
    assert hashes[0] == hashes[1]


def test_nothing_moves_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_memory, "use_huge_pages", lambda _: pytest.fail("moved"))
    monkeypatch.setattr(step_memory, "STEPS_BEFORE_MOVE", 1)
    network = torch.nn.Linear(2, 2)
    step: Any = network
    clock: Any = None
    memory = step_memory.StepMemory(step, False, clock)
    for _ in range(3):
        memory.count_step()
