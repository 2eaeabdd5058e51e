"""Event logs: order of lines, killed writers, refusing disks, and the surviving history."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydc.storage import Storage
from raydc.tracking import events


def test_read_returns_lines_in_order_and_skips_a_torn_one(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    events.EventLog(folder, "events").write(kind="a", n=1)
    events.EventLog(folder, "events").write_all([{"kind": "b"}, {"kind": "c"}])
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b'{"kind": "torn')
    events.EventLog(folder, "events").write(kind="d")
    assert [record["kind"] for record in events.read(folder, "events")] == ["a", "b", "c", "d"]
    assert list(events.read(folder, "metrics")) == []


def test_writers_on_an_object_store_own_separate_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "is_local", property(lambda self: False))
    folder = Storage(str(tmp_path))
    first, second = events.EventLog(folder, "metrics"), events.EventLog(folder, "metrics")
    first.write(kind="note", n=1)
    first.flush()
    second.write(kind="note", n=2)
    second.flush()
    first.write(kind="note", n=3)
    first.flush()
    assert sorted(record["n"] for record in events.read(folder, "metrics")) == [1, 2, 3]


def test_surviving_drops_steps_that_a_restart_repeats() -> None:
    lines = [
        {"kind": "start", "step": 0},
        *({"kind": "step", "step": n, "try": 1} for n in (1, 2, 3, 4)),
        {"kind": "start", "step": 2},
        *({"kind": "step", "step": n, "try": 2} for n in (3, 4, 5)),
    ]
    survivors = events.surviving(iter(lines))
    assert [(r["step"], r["try"]) for r in survivors] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_write_to_a_refusing_disk_raises_unless_patient(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path / "run"))
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="run"):
        events.EventLog(folder, "events").write(kind="a")
    patient = events.EventLog(folder, "events", patient=True)
    patient.write(kind="a")
    with pytest.raises(OSError, match="run"):
        patient.flush()
    (tmp_path / "run").unlink()
    patient.flush()
    assert [record["kind"] for record in events.read(folder, "events")] == ["a"]
