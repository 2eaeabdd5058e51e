"""The phase timer: one phase at a time, and sums up to the last step even after a kill."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from training import step_records, training_spec, write_pictures

from raydc.data.shards import Rows
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import events, time_account
from raydc.tracking.mapped_sums import MappedSums
from raydc.tracking.phase_timer import PhaseTimer, read_account
from raydc.tracking.time_account import CHECKPOINT

LONG_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


class FakeClock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now_s(self) -> float:
        return self.seconds

    def unix_s(self) -> float:
        return 1.8e9 + self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def start_timer(folder: Storage, clock: FakeClock, step: int = 0) -> PhaseTimer:
    log = events.EventLog(folder, "events")

    def record_event(kind: str, **fields: Any) -> None:
        log.write(kind=kind, **fields)

    timer = PhaseTimer(folder, True, record_event, clock.now_s, clock.unix_s)
    timer.start_attempt(step)
    return timer


def times(folder: Storage) -> list[dict[str, Any]]:
    return [record for record in events.read(folder, "events") if record["kind"] == "time"]


def test_every_second_belongs_to_one_phase(folder: Storage, clock: FakeClock) -> None:
    def rows() -> Iterator[int]:
        for step in range(1, 4):
            clock.advance(0.25)
            yield step

    with start_timer(folder, clock) as timer:
        clock.advance(2.0)
        for step in timer.time_waiting(rows()):
            clock.advance(1.0)
            timer.count_step(step, 10)
            with timer.phase(CHECKPOINT):
                clock.advance(0.125)
        with timer.phase(time_account.VALIDATION):
            clock.advance(0.5)
    first, last = times(folder)
    assert sum(first["seconds"].values()) == 0.0
    states = {
        "useful_step": 3.0,
        "checkpoint": 0.375,
        "data_wait": 0.75,
        "validation": 0.5,
        "start_up": 2.0,
    }
    assert last["seconds"] == {"recomputed_step": 0.0, **states}
    assert last["until_s"] - last["since_s"] == pytest.approx(sum(states.values()), abs=1e-6)
    assert (last["step"], last["useful_steps"], last["recomputed_steps"], last["rows"]) == (
        3,
        3,
        0,
        30,
    )


def test_next_attempt_takes_over_sums_of_a_killed_one(folder: Storage, clock: FakeClock) -> None:
    killed = start_timer(folder, clock)
    for step in killed.time_waiting(iter(range(1, 8))):
        clock.advance(1.0)
        killed.count_step(step, 10)
    assert read_account(folder).useful_steps == 7  # The mapped file of a dead run counts too.
    clock.advance(5.0)
    again = start_timer(folder, clock, step=4)
    clock.advance(0.5)
    for step in again.time_waiting(iter(range(5, 10))):
        clock.advance(1.0)
        again.count_step(step, 10)
        with again.phase(time_account.VALIDATION):
            clock.advance(0.25)
    with again:
        pass
    result = read_account(folder)
    assert (result.useful_steps, result.recomputed_steps, result.rows) == (9, 3, 120)
    # A repeated step lasts until the next one starts, so its validation is recomputed work too.
    assert result.seconds["recomputed_step"] == pytest.approx(3.0 + 2 * 0.25)
    assert result.seconds["useful_step"] == pytest.approx(7.0 + 2.0 + 3 * 0.25)
    assert result.wall_s == pytest.approx(7.0 + 5.0 + 0.5 + 5 * 1.25, abs=1e-5)
    assert len(times(folder)) == 4
    assert read_account(folder) == result


def test_kill_between_record_and_clear_counts_sums_once(
    folder: Storage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = start_timer(folder, clock)
    clock.advance(3.0)
    killed.count_step(1, 10)
    # Killed after the record was written and before the slots were cleared.
    with monkeypatch.context() as patch:
        patch.setattr(MappedSums, "clear", lambda _: None)
        killed.record()
    assert read_account(folder).useful_steps == 1
    start_timer(folder, clock, step=1)
    assert (read_account(folder).useful_steps, read_account(folder).seconds["start_up"]) == (
        1,
        pytest.approx(3.0),
    )


def test_record_if_due_writes_every_ten_seconds(folder: Storage, clock: FakeClock) -> None:
    timer = start_timer(folder, clock)
    for step in range(1, 200):
        clock.advance(0.125)
        timer.count_step(step, 1)
        timer.record_if_due()
    assert len(times(folder)) == 3
    assert read_account(folder).useful_steps == 199


def test_torn_slot_leaves_the_record_before_it(folder: Storage) -> None:
    sums = MappedSums(folder)
    assert sums.read() is None
    record = {"since_s": 1.0, "step": 1, "useful_steps": 1, "recomputed_steps": 0, "rows": 8}
    seconds = dict(zip(time_account.TIMED, itertools.count(0.5), strict=False))
    written = [
        {**record, "until_s": 2.0 + step, "step": step, "seconds": seconds} for step in range(3)
    ]
    for one in written:
        sums.write(one)
    assert MappedSums(folder).read() == written[2]
    torn = bytearray(folder.read_bytes("pulse.bin"))
    slot = torn.index(struct.pack("<d", 4.0))
    torn[slot + 20] ^= 1
    (folder.local_path / "pulse.bin").write_bytes(torn)
    assert MappedSums(folder).read() == written[1]
    MappedSums(folder).clear()
    assert MappedSums(folder).read() is None


def test_mapped_sums_survive_kill_9_with_the_last_step(folder: Storage) -> None:
    code = (
        "import sys; from raydc.storage import Storage; "
        "from raydc.tracking.phase_timer import PhaseTimer; "
        "timer = PhaseTimer(Storage(sys.argv[1]), True, lambda *a, **k: None); "
        "timer.start_attempt(0); "
        "[timer.count_step(step, 2) for step in range(1, 1001)]; "
        "print('done', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, folder.uri]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        os.kill(process.pid, signal.SIGKILL)
    kept = MappedSums(folder).read()
    assert kept is not None
    assert (kept["step"], kept["useful_steps"], kept["rows"]) == (1000, 1000, 2000)


def test_timer_of_other_ranks_writes_nothing(folder: Storage) -> None:
    def event(kind: str, **fields: Any) -> None:
        raise AssertionError(kind)

    with PhaseTimer(folder, False, event) as timer:
        timer.start_attempt(0)
        timer.count_step(1, 10)
    assert not folder.exists()


def fit_and_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> Storage:
    """Trains on small data, dies after `step` steps, and resumes; checkpoints every 4 steps."""
    data, run = write_pictures(Storage(str(tmp_path / "data"))), Storage(str(tmp_path / "run"))
    do_step = worker._Run.do_step

    def dying(self: worker._Run, batch: Any) -> None:
        if self.state.step == step:
            raise KeyboardInterrupt
        do_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(worker._Run, "do_step", dying)
        patch.setattr(PhaseTimer, "__exit__", lambda timer, *error: None)  # A kill runs no cleanup.
        with pytest.raises(KeyboardInterrupt):
            worker.fit(training_spec(str(tmp_path)), run, data)
    worker.fit(training_spec(str(tmp_path)), run, data)
    return run


@pytest.mark.parametrize(("killed_at", "recomputed"), [(3, 3), (7, 0), (10, 2), (20, 0)])
def test_recomputed_steps_equal_steps_after_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, recomputed: int
) -> None:
    run = fit_and_kill(tmp_path, monkeypatch, killed_at)
    result = read_account(run)
    assert (result.useful_steps, result.recomputed_steps, result.restarts) == (21, recomputed, 1)
    assert (result.seconds["recomputed_step"] > 0) == (recomputed > 0)
    assert result.rows == 3 * 200 + sum(
        r["rows"] for r in step_records(run)[killed_at - recomputed : killed_at]
    )


def test_stall_of_the_data_counts_as_data_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock moves while the loop waits for its rows, and a millisecond at each switch."""
    clock, calls = FakeClock(), itertools.count()
    gather: Callable[..., Any] = Rows.gather
    phase, switched = "", threading.Condition()

    class WatchedTimer(PhaseTimer):
        def switch(self, entered: str) -> str:
            nonlocal phase
            with switched:
                clock.advance(0.001)
                phase = entered
                switched.notify_all()
                return super().switch(entered)

    def stalling(rows: Rows, positions: Any) -> Any:
        if next(calls) == 5:
            with switched:
                assert switched.wait_for(lambda: phase == time_account.DATA_WAIT, LONG_S)
                clock.advance(500.0)
        return gather(rows, positions)

    monkeypatch.setattr(Rows, "gather", stalling)
    monkeypatch.setattr(
        worker,
        "PhaseTimer",
        functools.partial(WatchedTimer, now_s=clock.now_s, unix_s=clock.unix_s),
    )
    data, run = write_pictures(Storage(str(tmp_path / "data"))), Storage(str(tmp_path / "run"))
    worker.fit(training_spec(str(tmp_path)), run, data)
    result = read_account(run)
    assert 500.0 < result.seconds["data_wait"] < 501.0
    assert 1.0 > result.seconds["useful_step"] > result.validation_s > 0
