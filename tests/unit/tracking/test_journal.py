"""What a worker records: charts and observers that fail do not end a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboardX import summary

from raydc.errors import TrainError
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


def test_lines_of_quick_steps_wait_for_each_other_but_not_beyond_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr("raydc.tracking.journal.time.monotonic", lambda: now_s[0])
    run = Storage(str(tmp_path))

    def written() -> list[int]:
        return [record["step"] for record in events.read(run, "metrics")]

    with Journal(run, True, None) as journal:
        for step in range(1, 6):
            journal.record_step(step, 1, torch.tensor(float(step)), 0.1, np.arange(step))
            loss_sum = journal.flush(0.0, may_wait=True)
            assert loss_sum == step * step, "losses are read at once"
        assert written() == [1]
        now_s[0] += 1.0
        record_step_6 = (6, 1, torch.tensor(0.5), 0.1, np.arange(4))
        journal.record_step(*record_step_6)
        journal.flush(0.0, may_wait=True)
        assert written() == [1, 2, 3, 4, 5, 6]
        journal.record_step(7, 1, torch.tensor(0.5), 0.1, np.arange(4))
        journal.flush(0.0, may_wait=True)
        journal.record_step(8, 1, torch.tensor(0.5), 0.1, np.arange(4))
        journal.flush(0.0)
        assert written()[-2:] == [7, 8]
        journal.record_step(9, 1, torch.tensor(0.5), 0.1, np.arange(4))
        journal.flush(0.0, may_wait=True)
    records = list(events.read(run, "metrics"))
    assert [record["step"] for record in records] == list(range(1, 10))
    fingerprints = [record["row_fingerprint"] for record in records]
    assert fingerprints[0] != fingerprints[1]
    assert fingerprints[5:] == fingerprints[3:4] * 4, "the same rows"


def test_flush_that_may_not_wait_writes_lines_that_wait_without_a_new_step(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    with Journal(run, True, None) as journal:
        for step in (1, 2, 3):
            journal.record_step(step, 1, torch.tensor(0.5), 0.1, np.arange(4))
            journal.flush(0.0, may_wait=True)
        # As before a checkpoint of a step whose loss is read already.
        assert journal.flush(7.0) == 7.0
        assert [record["step"] for record in events.read(run, "metrics")] == [1, 2, 3]


def test_moment_of_a_step_is_not_that_of_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr("raydc.tracking.journal.time.time", lambda: now_s[0])
    run = Storage(str(tmp_path))
    with Journal(run, True, None) as journal:
        for step in (1, 2, 3):
            now_s[0] = 100.0 + step
            journal.record_step(step, 1, torch.tensor(0.5), 0.1, np.arange(4))
            journal.flush(0.0, may_wait=True)
    assert [record["time_s"] for record in events.read(run, "metrics")] == [101.0, 102.0, 103.0]


def diverge(run: Storage) -> None:
    with Journal(run, True, None) as journal:
        for step, loss in ((1, 0.5), (2, float("nan")), (3, 0.5)):
            journal.record_step(step, 1, torch.tensor(loss), 0.1, np.arange(4))
            journal.flush(0.0, may_wait=True)


def test_loss_that_is_not_finite_is_noticed_though_lines_wait(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="at step 2"):
        diverge(Storage(str(tmp_path)))
    assert [record["step"] for record in events.read(Storage(str(tmp_path)), "metrics")] == [1]
