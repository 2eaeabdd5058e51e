"""What a worker records: charts and observers that fail do not end a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboardX import summary

from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.journal import Journal


def record_steps(journal: Journal, num: int = 2) -> None:
    for step in range(1, num + 1):
        journal.record_step(step, 1, torch.tensor(0.5), 0.1, np.arange(4))
        journal.flush(0.0)


@pytest.mark.parametrize("error", [ValueError("bad tag"), OSError(28, "No space left")])
def test_charts_that_raise_end_the_charts_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def scalar(*_: Any) -> None:
        raise error

    monkeypatch.setattr(summary, "scalar", scalar)
    run = Storage(str(tmp_path))
    with Journal(run, True, None) as journal:
        record_steps(journal)
    (stopped,) = events.read(run, "events")
    assert stopped["kind"] == "tensorboard_stopped"
    assert str(error) in stopped["reason"]
    assert [record["step"] for record in events.read(run, "metrics")] == [1, 2]


def test_folder_of_charts_that_cannot_be_made_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with Journal(Storage(str(tmp_path)), True, None) as journal:
        record_steps(journal)
    kinds = [record["kind"] for record in events.read(Storage(str(tmp_path)), "events")]
    assert kinds == ["tensorboard_stopped"]


def test_observer_that_raises_is_not_asked_again(tmp_path: Path) -> None:
    seen: list[str] = []

    def publish(record: dict[str, Any]) -> None:
        seen.append(record["kind"])
        raise RuntimeError("the mailbox is gone")

    run = Storage(str(tmp_path))
    with Journal(run, True, publish) as journal:
        journal.record_event("checkpoint", step=1)
        journal.record_event("checkpoint", step=2)
    assert seen == ["checkpoint"]
    kinds = [record["kind"] for record in events.read(run, "events")]
    assert kinds == ["checkpoint", "publishing_stopped", "checkpoint"]
