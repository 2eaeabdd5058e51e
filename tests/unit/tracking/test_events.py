"""Logs survive a killed writer, and the surviving history has every step once."""

from __future__ import annotations

from raydc.storage import Storage
from raydc.tracking import events


def test_lines_come_back_in_order_and_a_torn_one_is_left_out(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = Storage(str(tmp_path))
    events.EventLog(folder, "events").write(kind="a", n=1)
    events.EventLog(folder, "events").write_all([{"kind": "b"}, {"kind": "c"}])
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b'{"kind": "torn')
    events.EventLog(folder, "events").write(kind="d")
    assert [record["kind"] for record in events.read(folder, "events")] == ["a", "b", "c", "d"]
    assert list(events.read(folder, "metrics")) == []


def test_segments_of_an_object_store(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(Storage, "is_local", property(lambda self: False))
    folder = Storage(str(tmp_path))
    (tmp_path).mkdir(exist_ok=True)
    first, second = events.EventLog(folder, "metrics"), events.EventLog(folder, "metrics")
    first.write(n=1)
    first.flush()
    second.write(n=2)
    second.flush()
    first.write(n=3)
    first.flush()
    assert sorted(record["n"] for record in events.read(folder, "metrics")) == [1, 2, 3]


def test_a_restart_drops_the_steps_that_it_does_again() -> None:
    lines = [
        {"kind": "start", "step": 0},
        *({"kind": "step", "step": n, "try": 1} for n in (1, 2, 3, 4)),
        {"kind": "start", "step": 2},
        *({"kind": "step", "step": n, "try": 2} for n in (3, 4, 5)),
    ]
    survivors = events.surviving(iter(lines))
    assert [(r["step"], r["try"]) for r in survivors] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
