"""Copying and delivering the state of a run: what waits, and what a refusing storage costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training import (
    StopsAfter,
    check_ledger,
    event_kinds,
    training_spec,
    weights_hash,
    write_pictures,
)

from raydc.checkpoint.saver import Saver
from raydc.checkpoint.snapshot import HostCopy
from raydc.checkpoint.state import Constants, Parts, State
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.checkpoint.timing import Timing
from raydc.errors import CheckpointError
from raydc.loop import worker
from raydc.loop.hooks import Hooks
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.journal import Journal

LONG_S = 30.0
FULL = OSError(28, "No space left on device")
# Without pauses and without limits in seconds, only the order of events counts.
NO_PAUSES = Timing(
    retry_pauses_s=(0.0,) * 50, memory_every_s=0.0, memory_late_s=0.0, min_interval_s=0.0
)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def data(tmp_path: Path) -> Storage:
    return write_pictures(Storage(str(tmp_path / "data")))


class FakeMemory:
    """Peer memory that refuses or waits if a test says so."""

    def __init__(self) -> None:
        self.states: dict[int, Found] = {}
        self.num_puts = 0
        self.refuses = False
        self.permits = threading.Semaphore(0)
        self.is_held = False

    def put(self, copy: HostCopy) -> bool:
        if self.is_held:
            assert self.permits.acquire(timeout=LONG_S)
        if self.refuses:
            self.num_puts += 1
            raise OSError("no holder")
        files = {name: bytes(content) for name, content in copy.files.items()}
        self.states[copy.step] = Found(copy.step, copy.meta, files)
        self.num_puts += 1
        return True

    def newest(self) -> Found | None:
        return self.states[max(self.states)] if self.states else None

    def read(self, step: int) -> Found:
        return self.states[step]

    def forget_after(self, step: int) -> None:
        self.states = {kept: state for kept, state in self.states.items() if kept <= step}


def make_saver(
    folder: Storage,
    memory: FakeMemory | None = None,
    steps: int = 10,
    store: CheckpointStore | None = None,
    timing: Timing = NO_PAUSES,
    **checkpoint: Any,
) -> Saver:
    section = {"every_steps": None, **checkpoint}
    spec = training_spec("x", checkpoint=section, fault_tolerance={"max_recomputed_steps": steps})
    return Saver(
        store or CheckpointStore(folder / "checkpoints", 3),
        spec,
        Constants({}, {}),
        Journal(folder, True, None),
        torch.device("cpu"),
        peer_memory=memory,
        timing=timing,
    )


def steps_in(folder: Storage) -> list[int]:
    return CheckpointStore(folder / "checkpoints", 3).steps()


def parts(step: int) -> Parts:
    return Parts(State(step=step), {"weight": torch.full((2,), float(step))}, {})


def run_steps(saver: Saver, steps: range) -> None:
    for step in steps:
        if saver.is_due(step):
            saver.save(parts(step))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def wait_for_events(folder: Storage, kind: str, num: int = 1) -> None:
    wait_until(lambda: event_kinds(folder).count(kind) >= num)


# When a state is taken


def test_every_steps_saves_each_multiple_and_the_end(folder: Storage) -> None:
    saver = make_saver(folder, every_steps=3)
    run_steps(saver, range(1, 11))
    saver.finish(parts(10))
    assert steps_in(folder) == [6, 9, 10]
    saved = [r["step"] for r in events.read(folder, "events") if r["kind"] == "checkpoint"]
    assert saved == [3, 6, 9, 10]


class GatedStore(CheckpointStore):
    """Writes a checkpoint for each permit of the test."""

    def __init__(self, folder: Storage) -> None:
        super().__init__(folder / "checkpoints", 3)
        self.permits = threading.Semaphore(0)

    def write(self, *arguments: Any, **options: Any) -> str:
        assert self.permits.acquire(timeout=LONG_S)
        return super().write(*arguments, **options)


def test_every_seconds_does_not_wait_for_the_previous_copy(folder: Storage) -> None:
    store = GatedStore(folder)
    saver = make_saver(folder, store=store, every_seconds=1e-9)
    # This would never return if step 2 waited for the copy of step 1.
    run_steps(saver, range(1, 5))
    store.permits.release()
    wait_for_events(folder, "checkpoint")
    wait_until(lambda: saver.is_due(5))
    run_steps(saver, range(5, 6))
    store.permits.release()
    saver.finish(parts(5))
    assert steps_in(folder) == [1, 5]


def test_auto_explains_its_choice(folder: Storage) -> None:
    saver = make_saver(folder, every_seconds="auto")
    run_steps(saver, range(1, 3))
    chosen = [r for r in events.read(folder, "events") if r["kind"] == "checkpoint_interval"]
    assert chosen[0].keys() >= {"interval_s", "cost_s", "mtbf_s", "failures"}
    assert chosen[0]["interval_s"] > 0


@pytest.mark.parametrize(("steps", "expected"), [(10, [8, 16]), (1, list(range(1, 23))), (0, [])])
def test_memory_loses_no_more_steps_than_promised(
    folder: Storage, steps: int, expected: list[int]
) -> None:
    memory = FakeMemory()
    saver = make_saver(folder, memory if steps else None, steps, every_steps=1000)
    for step in range(1, 23):
        run_steps(saver, range(step, step + 1))
        if steps:
            # A kill now loses no more than promised, whether or not the newest state has arrived.
            assert step - max([0, *(s for s in memory.states if s < step)]) <= steps
        num_due = sum(due <= step for due in expected)
        wait_until(lambda num_due=num_due: memory.num_puts == num_due)
        # From the first arrival on, the limit is a promise.
        wait_for_events(folder, "recent_state", min(num_due, 1))
    assert sorted(memory.states) == expected


def test_step_waits_for_memory_only_after_the_first_arrival(folder: Storage) -> None:
    memory = FakeMemory()
    saver = make_saver(folder, memory, 2, every_steps=1000)
    memory.is_held = True
    # The first state has not arrived: nothing is promised yet, and no step waits.
    run_steps(saver, range(1, 4))
    memory.permits.release()
    wait_for_events(folder, "recent_state")
    wait_until(lambda: saver.is_due(4))
    run_steps(saver, range(4, 5))
    blocked = threading.Thread(target=run_steps, args=(saver, range(5, 6)))
    blocked.start()
    memory.permits.release(2)
    blocked.join(LONG_S)
    assert not blocked.is_alive()
    wait_until(lambda: sorted(memory.states) == [1, 4, 5])


def test_memory_with_fast_steps_takes_states_by_the_clock(folder: Storage) -> None:
    memory = FakeMemory()
    timing = Timing(memory_every_s=LONG_S)
    saver = make_saver(folder, memory, 2, timing=timing, every_steps=1000)
    run_steps(saver, range(1, 50))
    wait_for_events(folder, "recent_state")
    assert sorted(memory.states) == [1]


def test_memory_that_refuses_is_left_alone(folder: Storage) -> None:
    memory = FakeMemory()
    memory.refuses = True
    saver = make_saver(folder, memory, 2, every_steps=1000)
    run_steps(saver, range(1, 2))
    wait_for_events(folder, "recent_state_failed")
    run_steps(saver, range(2, 9))
    assert memory.num_puts == 1
    assert event_kinds(folder).count("recent_state_failed") == 1


def test_late_thread_saves_the_optimiser_of_the_step_of_the_copy(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = training_spec(
        str(tmp_path), train={"optimizer": "adam"}, checkpoint={"num_to_keep": 100}
    )
    on_time, late = (Storage(str(tmp_path / name)) for name in ("on_time", "late"))
    num_steps = worker.fit(spec, on_time, data).step
    complete = HostCopy.complete

    def complete_late(copy: HostCopy) -> None:
        if threading.current_thread().name == "raydc-checkpoint" and copy.step < num_steps:
            # The thread that trains completes the copy; it must not wait for this one.
            wait_until(lambda: copy.is_complete)
        complete(copy)

    monkeypatch.setattr(HostCopy, "complete", complete_late)
    worker.fit(spec, late, data)
    one, other = (CheckpointStore(run / "checkpoints", 100) for run in (on_time, late))
    assert one.steps() == other.steps() == [4, 7, 8, 12, 14, 16, 20, 21]
    for step in one.steps():
        for name in ("optimizer.safetensors", "model.safetensors"):
            assert one.read(step).files[name] == other.read(step).files[name], (step, name)


# States that must be safe now


def test_save_now_returns_when_the_state_is_safe(folder: Storage) -> None:
    saver = make_saver(folder, FakeMemory(), every_steps=1000)
    assert saver.save_now(parts(3), LONG_S) in ("memory", "storage")
    assert make_saver(folder, every_steps=1000).save_now(parts(4), LONG_S) == "storage"
    assert event_kinds(folder).count("handed_over") == 2
    store = CheckpointStore(folder / "checkpoints", 3)
    assert store.read(4).files["state.json"]


class FullStore(CheckpointStore):
    """Refuses every checkpoint."""

    def write(self, *arguments: Any, **options: Any) -> str:
        raise FULL


def test_save_now_without_a_safe_place_raises(folder: Storage) -> None:
    saver = make_saver(folder, store=FullStore(folder / "checkpoints", 3), every_steps=1000)
    with pytest.raises(CheckpointError, match="the state after step 3 was not safe within 0 s"):
        saver.save_now(parts(3), 0.3)


# Storage that refuses


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the attempts to write a file of a checkpoint or a line.

    Attempts after the fifth are refused up to `until`.
    """
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


def test_full_disk_for_a_while_costs_a_checkpoint_but_not_the_run(
    tmp_path: Path, data: Storage, refusals: dict[str, int]
) -> None:
    spec, run = training_spec(str(tmp_path)), Storage(str(tmp_path / "run"))
    undisturbed = worker.fit(spec, Storage(str(tmp_path / "undisturbed")), data)
    refusals.update(tries=0, until=40)
    notes: list[dict[str, Any]] = []
    hooks = Hooks(publish=notes.append)
    assert worker.fit(spec, run, data, hooks=hooks, timing=NO_PAUSES) == undisturbed
    assert refusals["tries"] > 40
    assert {"checkpoint_delayed", "checkpoint"} <= {note["kind"] for note in notes}
    delayed = next(note for note in notes if note["kind"] == "checkpoint_delayed")
    assert "No space left" in delayed["reason"]
    assert weights_hash(run, 21) == weights_hash(Storage(str(tmp_path / "undisturbed")), 21)
    check_ledger(run, spec)
    assert not [name for name in run.names("checkpoints") if name.endswith(".tmp")]


def test_disk_that_stays_full_ends_the_run_with_a_remedy(
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
            worker.fit(spec, run, data, timing=NO_PAUSES)
    assert caught.value.hint == (
        "The newest one in storage is of step 4. Make space there. Then pass --resume."
    )
    assert worker.fit(spec, run, data).step == 21
    starts = [r["step"] for r in events.read(run, "metrics") if r["kind"] == "start"]
    assert starts == [0, 4]
    check_ledger(run, spec)


def test_storage_that_is_away_at_the_start_is_read_again(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = training_spec(str(tmp_path)), Storage(str(tmp_path / "run"))
    state = worker.fit(spec, run, data)
    timing = Timing(retry_pauses_s=(0.0, 0.0))
    steps, calls = CheckpointStore.steps, []

    def away(store: CheckpointStore) -> list[int]:
        calls.append(1)
        if len(calls) <= num_away:
            raise OSError(5, "Input/output error")
        return steps(store)

    monkeypatch.setattr(CheckpointStore, "steps", away)
    num_away = 2
    assert worker.fit(spec, run, data, timing=timing) == state
    num_away, calls = 99, []
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Input/output error") as caught:
        worker.fit(spec, run, data, timing=timing)
    assert caught.value.hint == (
        "The disk or the network storage reports a fault. Then pass --resume."
    )


# Restarts


class DiesAfter(StopsAfter):
    """Dies after a step, once everything that was sent before has arrived.

    Args:
        step: Completed steps.
        has_arrived: Whether all that was due after some completed steps has arrived.
    """

    def __init__(self, step: int, has_arrived: Callable[[int], bool] = lambda step: True) -> None:
        super().__init__(step)
        self._has_arrived = has_arrived

    def before_step(self, step: int) -> None:
        wait_until(lambda: self._has_arrived(step - 1))
        super().before_step(step)


def every_1000_steps(tmp_path: Path) -> tuple[Any, Storage]:
    """A spec with checkpoints at the end of epochs only, and a run folder."""
    spec = training_spec(str(tmp_path), checkpoint={"every_steps": 1000})
    return spec, Storage(str(tmp_path / "run"))


def test_restart_from_memory_equals_the_undisturbed_run(tmp_path: Path, data: Storage) -> None:
    spec, run = every_1000_steps(tmp_path)
    undisturbed = worker.fit(spec, Storage(str(tmp_path / "undisturbed")), data)
    memory = FakeMemory()
    dies = DiesAfter(12, lambda step: step < 8 or 8 in memory.states)
    with pytest.raises(KeyboardInterrupt):
        worker.fit(spec, run, data, hooks=Hooks(peer_memory=memory, faults=dies), timing=NO_PAUSES)
    assert max(memory.states) == 8
    assert worker.fit(spec, run, data, hooks=Hooks(peer_memory=memory)) == undisturbed
    starts = [
        (r["step"], r["source"])
        for r in events.read(run, "events")
        if r["kind"] == "attempt_started"
    ]
    assert starts == [(0, "storage"), (8, "memory")]
    check_ledger(run, spec)
    assert weights_hash(run, 21) == weights_hash(Storage(str(tmp_path / "undisturbed")), 21)


def test_lines_missing_on_an_object_store_come_back_with_the_state(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = every_1000_steps(tmp_path)
    write_bytes = Storage.write_bytes

    def write(self: Storage, name: str, content: Any) -> None:
        (Path(self.root) / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self, name, content)

    # The run's folder counts as an object store, which needs no folders.
    monkeypatch.setattr(Storage, "is_local", property(lambda self: "data" in self.uri))
    monkeypatch.setattr(Storage, "write_bytes", write)
    memory = FakeMemory()

    def has_arrived(step: int) -> bool:
        is_written = step < 7 or run.exists("checkpoints/step_00000007/MANIFEST.json")
        return is_written and (step < 8 or 8 in memory.states)

    hooks = Hooks(peer_memory=memory, faults=DiesAfter(12, has_arrived))
    with monkeypatch.context() as patch:
        # A killed process writes no last lines.
        patch.setattr(Journal, "__exit__", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            worker.fit(spec, run, data, hooks=hooks, timing=NO_PAUSES)
    # Only the checkpoint at the end of the epoch has made lines visible.
    assert max(r["step"] for r in events.read(run, "metrics")) == 7
    worker.fit(spec, run, data, hooks=Hooks(peer_memory=memory))
    assert [r["step"] for r in events.read(run, "metrics") if r["kind"] == "start"] == [0, 8]
    check_ledger(run, spec)


def test_error_leaves_its_lines_on_an_object_store(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = every_1000_steps(tmp_path)
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Storage, "is_local", property(lambda self: "data" in self.uri))
    with pytest.raises(KeyboardInterrupt):
        worker.fit(spec, run, data, hooks=Hooks(faults=DiesAfter(5)))
    # Losses are read every three steps, so those of the last two are unknown.
    assert [r["step"] for r in events.read(run, "metrics") if r["kind"] == "step"] == [1, 2, 3]
    assert sum(r.get("useful_steps", 0) for r in events.read(run, "events")) == 5
