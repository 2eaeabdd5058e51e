"""The loop of a worker reports that its process stood still: rank 0 writes it, others send it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from training import event_kinds, training_spec, write_pictures

from raydc.checkpoint.timing import Timing
from raydc.loop import worker
from raydc.loop.group import Alone, World
from raydc.loop.hooks import Hooks
from raydc.storage import Storage
from raydc.tracking import standstill
from raydc.tracking.phase_timer import read_account


@pytest.fixture(autouse=True)
def _every_tick_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "_TICK_S", 0.02)
    monkeypatch.setattr(standstill, "LEAST_S", 0.0)


def test_rank_0_writes_it_and_the_account_still_adds_up(tmp_path: Path) -> None:
    data, run = write_pictures(Storage(str(tmp_path / "data"))), Storage(str(tmp_path / "run"))
    worker.fit(training_spec(str(tmp_path), train={"epochs": 2}), run, data)
    assert "stood_still" in event_kinds(run)
    account = read_account(run)
    assert account.seconds["stalled"] > 0
    assert min(account.seconds.values()) >= 0


def test_another_rank_sends_it(tmp_path: Path) -> None:
    data, run = write_pictures(Storage(str(tmp_path / "data"))), Storage(str(tmp_path / "run"))
    group = Alone()
    group.world = World(1, 2, torch.device("cpu"))
    sent: list[tuple[str, Any]] = []
    has_sent = threading.Event()

    def post_event(kind: str, **fields: Any) -> None:
        sent.append((kind, fields["rank"]))
        has_sent.set()

    spec = training_spec(str(tmp_path), train={"logical_shards": 2}, scaling={"num_workers": 2})
    made = worker._Run(spec, run, data, group, Hooks(post_event=post_event), Timing())
    with made.watch:
        assert has_sent.wait(60)
    assert sent[0] == ("stood_still", 1)
    assert event_kinds(run) == []
