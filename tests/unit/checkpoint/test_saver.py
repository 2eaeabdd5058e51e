"""What keeps the state of a run safe: when it is copied, what waits, and what a refusing storage costs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training import check_ledger, event_kinds, training_spec, weights_hash, write_pictures

from raydc.checkpoint import saver as saver_module
from raydc.checkpoint.saver import Saver
from raydc.checkpoint.snapshot import HostCopy
from raydc.checkpoint.state import Parts, State
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.errors import CheckpointError
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.journal import Journal

LONG_S = 30.0
FULL = OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver_module, "_PAUSES_S", (0.0,) * 50)
    monkeypatch.setattr(saver_module, "_MEMORY_EVERY_S", 0.0)
    monkeypatch.setattr(saver_module, "_MEMORY_LATE_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def data(tmp_path: Path) -> Storage:
    return write_pictures(Storage(str(tmp_path / "data")))


class Memory:
    """Keeps states; refuses or waits where a test says so."""

    def __init__(self) -> None:
        self.states: dict[int, Found] = {}
        self.refuses = False
        self.may_go_on = threading.Semaphore(0)
        self.is_held = False

    def put(self, copy: HostCopy) -> bool:
        if self.is_held:
            assert self.may_go_on.acquire(timeout=LONG_S)
        if self.refuses:
            raise OSError("no holder")
        self.states[copy.step] = Found(
            copy.step, copy.meta, {name: bytes(c) for name, c in copy.files.items()}
        )
        return True

    def newest(self) -> Found | None:
        return self.states[max(self.states)] if self.states else None

    def read(self, step: int) -> Found:
        return self.states[step]

    def forget_after(self, step: int) -> None:
        self.states = {kept: state for kept, state in self.states.items() if kept <= step}


def make_saver(
    folder: Storage, memory: Memory | None = None, steps: int = 10, **checkpoint: Any
) -> Saver:
    section = {"every_steps": None, **checkpoint}
    spec = training_spec("x", checkpoint=section, fault_tolerance={"max_recomputed_steps": steps})
    store, journal = CheckpointStore(folder / "checkpoints", 3), Journal(folder, True, None)
    return Saver(store, spec, {}, {}, journal, torch.device("cpu"), memory)


def parts(step: int) -> Parts:
    return Parts(State(step=step), {"weight": torch.full((2,), float(step))}, {})


def run_steps(saver: Saver, steps: range) -> None:
    for step in steps:
        if saver.is_due(step):
            saver.save(parts(step))


def drain(saver: Saver) -> None:
    assert saver._to_storage.wait(LONG_S, idle=True)
    assert saver._to_memory.wait(LONG_S, idle=True)


# When ------------------------------------------------------------------------------------------------


def test_every_so_many_steps_without_exception(folder: Storage) -> None:
    saver = make_saver(folder, every_steps=3)
    run_steps(saver, range(1, 11))
    saver.finish(parts(10))
    assert saver._store.steps() == [6, 9, 10]
    assert [r["step"] for r in events.read(folder, "events") if r["kind"] == "checkpoint"] == [
        3,
        6,
        9,
        10,
    ]


def test_by_seconds_nobody_waits_for_the_one_before(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Semaphore(0)
    write = CheckpointStore.write

    def slow(store: CheckpointStore, *arguments: Any) -> str:
        assert may_go_on.acquire(timeout=LONG_S)
        return write(store, *arguments)

    monkeypatch.setattr(CheckpointStore, "write", slow)
    saver = make_saver(folder, every_seconds=1e-9)
    run_steps(saver, range(1, 5))  # Would never end if step 2 waited for step 1.
    may_go_on.release()
    drain(saver)
    run_steps(saver, range(5, 6))
    may_go_on.release()
    drain(saver)
    assert saver._store.steps() == [1, 5]


def test_auto_says_what_it_has_come_to(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydc.checkpoint.interval.LEAST_S", 0.0)
    saver = make_saver(folder, every_seconds="auto")
    run_steps(saver, range(1, 3))
    drain(saver)
    chosen = [
        record
        for record in events.read(folder, "events")
        if record["kind"] == "checkpoint_interval"
    ]
    assert chosen[0].keys() >= {"interval_s", "cost_s", "mtbf_s", "failures"}
    assert chosen[0]["interval_s"] > 0


@pytest.mark.parametrize(("steps", "expected"), [(10, [8, 16]), (1, list(range(1, 23))), (0, [])])
def test_in_memory_no_more_steps_are_lost_than_promised(
    folder: Storage, steps: int, expected: list[int]
) -> None:
    memory = Memory()
    kept: list[int] = []
    saver = make_saver(folder, memory if steps else None, steps, every_steps=1000)
    for step in range(1, 23):
        run_steps(saver, range(step, step + 1))
        if steps:
            # A kill now loses no more than promised, whether or not the newest state has arrived.
            assert step - max([0, *(s for s in memory.states if s < step)]) <= steps
        saver._to_memory.wait(LONG_S, idle=True)
        kept = sorted(memory.states)
    assert kept == expected


def test_a_step_waits_for_memory_once_it_has_promised(folder: Storage) -> None:
    memory = Memory()
    saver = make_saver(folder, memory, 2, every_steps=1000)
    memory.is_held = True
    run_steps(
        saver, range(1, 4)
    )  # The first state has not arrived: nothing is promised yet, nobody waits.
    memory.may_go_on.release()
    drain(saver)
    run_steps(saver, range(4, 5))
    blocked = threading.Thread(target=run_steps, args=(saver, range(5, 6)))
    blocked.start()
    memory.may_go_on.release(2)
    blocked.join(LONG_S)
    assert not blocked.is_alive()
    drain(saver)
    assert sorted(memory.states) == [1, 4, 5]


def test_states_of_fast_steps_are_kept_by_the_clock(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver_module, "_MEMORY_EVERY_S", LONG_S)
    memory = Memory()
    saver = make_saver(folder, memory, 2, every_steps=1000)
    run_steps(saver, range(1, 50))
    drain(saver)
    assert sorted(memory.states) == [1]


def test_memory_that_refuses_costs_no_step(folder: Storage) -> None:
    memory = Memory()
    memory.refuses = True
    saver = make_saver(folder, memory, 2, every_steps=1000)
    run_steps(saver, range(1, 2))
    drain(saver)
    run_steps(saver, range(2, 9))
    assert event_kinds(folder).count("recent_state_failed") == 1


def test_a_thread_that_is_late_gets_the_state_of_the_step_that_it_was_taken_after(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = training_spec(
        str(tmp_path), train={"optimizer": "adam"}, checkpoint={"num_to_keep": 100}
    )
    on_time, late = (Storage(str(tmp_path / name)) for name in ("on_time", "late"))
    num_steps = worker.fit(spec, on_time, data).step
    write = Saver._write

    def write_late(saver: Saver, copy: HostCopy) -> None:
        deadline_s = time.monotonic() + LONG_S
        while copy.step < num_steps and not copy.is_complete and time.monotonic() < deadline_s:
            time.sleep(0.001)
        assert copy.step == num_steps or copy.is_complete  # The step was not waited for.
        write(saver, copy)

    monkeypatch.setattr(Saver, "_write", write_late)
    worker.fit(spec, late, data)
    one, other = (CheckpointStore(run / "checkpoints", 100) for run in (on_time, late))
    assert one.steps() == other.steps() == [4, 7, 8, 12, 14, 16, 20, 21]
    for step in one.steps():
        assert (
            one.read(step).files["optimizer.safetensors"]
            == other.read(step).files["optimizer.safetensors"]
        ), step
        assert (
            one.read(step).files["model.safetensors"] == other.read(step).files["model.safetensors"]
        ), step


# Now -------------------------------------------------------------------------------------------------


def test_now_returns_when_the_state_is_safe(folder: Storage) -> None:
    memory = Memory()
    assert make_saver(folder, memory, every_steps=1000).save_now(parts(3), LONG_S) in (
        "memory",
        "storage",
    )
    assert make_saver(folder, every_steps=1000).save_now(parts(4), LONG_S) == "storage"
    assert event_kinds(folder).count("handed_over") == 2
    store = CheckpointStore(folder / "checkpoints", 3)
    assert store.read(4).files["state.json"]


def test_now_says_where_it_is_not_safe(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> str:
        raise FULL

    monkeypatch.setattr(CheckpointStore, "write", refuse)
    with pytest.raises(CheckpointError, match="the state after step 3 was not safe within 0 s"):
        make_saver(folder, every_steps=1000).save_now(parts(3), 0.3)


# Storage that refuses --------------------------------------------------------------------------------


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the tries to write a file of a checkpoint or a line, and refuses those below `until`."""
    count = {"tries": 0, "until": 0}
    write_bytes, append = Storage.write_bytes, events.EventLog._append

    def check(is_refused: bool) -> None:
        count["tries"] += 1
        if is_refused and count["tries"] > 5 and count["tries"] <= count["until"]:
            raise FULL

    def write(self: Storage, name: str, content: Any) -> None:
        check("checkpoints" in self.uri)
        write_bytes(self, name, content)

    def append_lines(self: events.EventLog) -> None:
        check(self.patient)
        append(self)

    monkeypatch.setattr(Storage, "write_bytes", write)
    monkeypatch.setattr(events.EventLog, "_append", append_lines)
    return count


def test_disk_that_is_full_for_a_while_costs_a_checkpoint_but_not_the_run(
    tmp_path: Path, data: Storage, refusals: dict[str, int]
) -> None:
    spec, run = training_spec(str(tmp_path)), Storage(str(tmp_path / "run"))
    undisturbed = worker.fit(spec, Storage(str(tmp_path / "undisturbed")), data)
    refusals.update(tries=0, until=40)
    notes: list[dict[str, Any]] = []
    assert worker.fit(spec, run, data, publish=notes.append) == undisturbed
    assert refusals["tries"] > 40
    assert {"checkpoint_delayed", "checkpoint"} <= {note["kind"] for note in notes}
    assert "No space left" in next(
        note["reason"] for note in notes if note["kind"] == "checkpoint_delayed"
    )
    assert weights_hash(run, 21) == weights_hash(Storage(str(tmp_path / "undisturbed")), 21)
    check_ledger(run, spec)
    assert not [name for name in run.names("checkpoints") if name.endswith(".tmp")]


def test_disk_that_stays_full_ends_the_run_with_a_remedy_and_what_was_there(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = training_spec(str(tmp_path)), Storage(str(tmp_path / "run"))
    write = CheckpointStore.write

    def refuse(store: CheckpointStore, step: int, *arguments: Any) -> str:
        if step > 4:
            raise FULL
        return write(store, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "write", refuse)
        with pytest.raises(
            CheckpointError, match=r"could not be written to .*No space left on device"
        ) as caught:
            worker.fit(spec, run, data)
    assert caught.value.hint == (
        "The newest that is there is of step 4. Make room or give access there, then type --resume."
    )
    assert worker.fit(spec, run, data).step == 21
    starts = [r["step"] for r in events.read(run, "metrics") if r["kind"] == "start"]
    assert starts == [0, 4]
    check_ledger(run, spec)


def test_storage_that_is_away_at_the_start_is_asked_again(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = training_spec(str(tmp_path)), Storage(str(tmp_path / "run"))
    state = worker.fit(spec, run, data)
    monkeypatch.setattr("raydc.checkpoint.resume._PAUSES_S", (0.0, 0.0))
    steps, calls = CheckpointStore.steps, []

    def away(store: CheckpointStore) -> list[int]:
        calls.append(1)
        if len(calls) <= num_away:
            raise OSError(5, "Input/output error")
        return steps(store)

    monkeypatch.setattr(CheckpointStore, "steps", away)
    num_away = 2
    assert worker.fit(spec, run, data) == state
    num_away, calls = 99, []
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Input/output error"):
        worker.fit(spec, run, data)


def test_restart_from_memory_is_the_undisturbed_run(tmp_path: Path, data: Storage) -> None:
    spec, run = (
        training_spec(str(tmp_path), checkpoint={"every_steps": 1000}),
        Storage(str(tmp_path / "run")),
    )
    undisturbed = worker.fit(spec, Storage(str(tmp_path / "undisturbed")), data)
    memory = Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker._Run, "checkpoint_if_due", _dying_at(12))
        with pytest.raises(KeyboardInterrupt):
            worker.fit(spec, run, data, recent=memory)
    assert max(memory.states) == 8
    assert worker.fit(spec, run, data, recent=memory) == undisturbed
    starts = [
        (r["step"], r["source"])
        for r in events.read(run, "events")
        if r["kind"] == "attempt_started"
    ]
    assert starts == [(0, "storage"), (8, "memory")]
    check_ledger(run, spec)
    assert weights_hash(run, 21) == weights_hash(Storage(str(tmp_path / "undisturbed")), 21)


def test_lines_that_an_object_store_does_not_have_yet_come_back_with_the_state(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = (
        training_spec(str(tmp_path), checkpoint={"every_steps": 1000}),
        Storage(str(tmp_path / "run")),
    )
    write_bytes = Storage.write_bytes

    def write(self: Storage, name: str, content: Any) -> None:
        (Path(self.root) / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self, name, content)

    monkeypatch.setattr(
        Storage, "is_local", property(lambda self: "data" in self.uri)
    )  # The run's folder is not.
    monkeypatch.setattr(Storage, "write_bytes", write)
    memory = Memory()
    with monkeypatch.context() as patch:
        patch.setattr(worker._Run, "checkpoint_if_due", _dying_at(12))
        patch.setattr(
            Journal, "__exit__", lambda *_: None
        )  # A killed process writes no last lines.
        with pytest.raises(KeyboardInterrupt):
            worker.fit(spec, run, data, recent=memory)
    assert (
        max(r["step"] for r in events.read(run, "metrics")) == 7
    )  # Visible with the checkpoint of the epoch.
    worker.fit(spec, run, data, recent=memory)
    assert [r["step"] for r in events.read(run, "metrics") if r["kind"] == "start"] == [0, 8]
    check_ledger(run, spec)


def test_an_error_leaves_its_lines_on_an_object_store(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = (
        training_spec(str(tmp_path), checkpoint={"every_steps": 1000}),
        Storage(str(tmp_path / "run")),
    )
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Storage, "is_local", property(lambda self: "data" in self.uri))
    monkeypatch.setattr(worker._Run, "checkpoint_if_due", _dying_at(5))
    with pytest.raises(KeyboardInterrupt):
        worker.fit(spec, run, data)
    assert [r["step"] for r in events.read(run, "metrics") if r["kind"] == "step"] == [
        1,
        2,
        3,
    ]  # The last flush.
    assert sum(r.get("useful_steps", 0) for r in events.read(run, "events")) == 5


def _dying_at(step: int) -> Any:
    if_due = worker._Run.checkpoint_if_due

    def dying(run: worker._Run) -> None:
        if run.saver is not None:
            drain(run.saver)
        if_due(run)
        if run.saver is not None:
            drain(run.saver)
        if run.state.step == step:
            raise KeyboardInterrupt

    return dying
