"""The clock of a worker: in one state at a time, and known to the last step even when it is killed."""

from __future__ import annotations

import itertools
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from training import step_records, training_spec, write_pictures

from raydc.data.shards import Rows
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import events, time_account
from raydc.tracking.phase_timer import PhaseTimer, account_of
from raydc.tracking.pulse import Pulse
from raydc.tracking.time_account import CHECKPOINT


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


class Moments:
    """A clock that stands still until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("raydc.tracking.phase_timer.time.monotonic", lambda: self.now)
        monkeypatch.setattr("raydc.tracking.phase_timer.time.time", lambda: 1.8e9 + self.now)

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def started(folder: Storage, step: int = 0) -> PhaseTimer:
    log = events.EventLog(folder, "events")
    made = PhaseTimer(folder, True, lambda kind, **fields: log.write(kind=kind, **fields))
    made.begin(step)
    return made


def times(folder: Storage) -> list[dict[str, Any]]:
    return [record for record in events.read(folder, "events") if record["kind"] == "time"]


def test_every_second_has_one_state(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments(monkeypatch)

    def rows() -> Iterator[int]:
        for step in range(1, 4):
            moments.pass_(0.25)
            yield step

    with started(folder) as made:
        moments.pass_(2.0)
        for step in made.waits(rows()):
            moments.pass_(1.0)
            made.step(step, 10)
            with made.of(CHECKPOINT):
                moments.pass_(0.125)
        with made.of(time_account.VALIDATION):
            moments.pass_(0.5)
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


def test_what_a_killed_attempt_did_is_taken_over(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = Moments(monkeypatch)
    killed = started(folder)
    for step in killed.waits(iter(range(1, 8))):
        moments.pass_(1.0)
        killed.step(step, 10)
    assert account_of(folder).useful_steps == 7  # A dead run tells it too.
    moments.pass_(5.0)
    again = started(folder, step=4)
    moments.pass_(0.5)
    for step in again.waits(iter(range(5, 10))):
        moments.pass_(1.0)
        again.step(step, 10)
        with again.of(time_account.VALIDATION):
            moments.pass_(0.25)
    with again:
        pass
    result = account_of(folder)
    assert (result.useful_steps, result.recomputed_steps, result.rows) == (9, 3, 120)
    # A step that is repeated, with its validation, is one until the next begins.
    assert result.seconds["recomputed_step"] == pytest.approx(3.0 + 2 * 0.25)
    assert result.seconds["useful_step"] == pytest.approx(7.0 + 2.0 + 3 * 0.25)
    assert result.wall_s == pytest.approx(7.0 + 5.0 + 0.5 + 5 * 1.25, abs=1e-5)
    assert len(times(folder)) == 4
    assert account_of(folder) == result


def test_sums_are_not_counted_twice(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments(monkeypatch)
    killed = started(folder)
    moments.pass_(3.0)
    killed.step(1, 10)
    # Killed after the record was written and before the slots were cleared.
    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "clear", lambda pulse: None)
        killed.record()
    assert account_of(folder).useful_steps == 1
    started(folder, step=1)
    assert (account_of(folder).useful_steps, account_of(folder).seconds["start_up"]) == (
        1,
        pytest.approx(3.0),
    )


def test_records_come_rarely(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments(monkeypatch)
    made = started(folder)
    for step in range(1, 200):
        moments.pass_(0.125)
        made.step(step, 1)
        made.record_if_due()
    assert len(times(folder)) == 3
    assert account_of(folder).useful_steps == 199


def test_a_torn_slot_leaves_the_one_before(folder: Storage) -> None:
    pulse = Pulse(folder)
    assert pulse.read() is None
    record = {"since_s": 1.0, "step": 1, "useful_steps": 1, "recomputed_steps": 0, "rows": 8}
    seconds = dict(zip(time_account.TIMED, itertools.count(0.5), strict=False))
    written = [
        {**record, "until_s": 2.0 + step, "step": step, "seconds": seconds} for step in range(3)
    ]
    for one in written:
        pulse.write(one)
    assert Pulse(folder).read() == written[2]
    torn = bytearray(folder.read_bytes("pulse.bin"))
    slot = torn.index(struct.pack("<d", 4.0))
    torn[slot + 20] ^= 1
    (folder.local_path / "pulse.bin").write_bytes(torn)
    assert Pulse(folder).read() == written[1]
    Pulse(folder).clear()
    assert Pulse(folder).read() is None


def test_kill_9_leaves_the_last_step(folder: Storage) -> None:
    code = (
        "import sys; from raydc.tracking.phase_timer import PhaseTimer; from raydc.storage import Storage; "
        "made = PhaseTimer(Storage(sys.argv[1]), True, lambda *a, **k: None); made.begin(0); "
        "[made.step(step, 2) for step in range(1, 1001)]; print('done', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, folder.uri]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        os.kill(process.pid, signal.SIGKILL)
    kept = Pulse(folder).read()
    assert kept is not None
    assert (kept["step"], kept["useful_steps"], kept["rows"]) == (1000, 1000, 2000)


def test_other_ranks_write_nothing(folder: Storage) -> None:
    def event(kind: str, **fields: Any) -> None:
        raise AssertionError(kind)

    with PhaseTimer(folder, False, event) as made:
        made.begin(0)
        made.step(1, 10)
    assert not folder.exists()


def fit_and_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> Storage:
    """A run on small data that was killed after `step` steps, with checkpoints every 4, and resumed."""
    data, run = write_pictures(Storage(str(tmp_path / "data"))), Storage(str(tmp_path / "run"))
    do_step = worker._Run.do_step

    def dying(self: worker._Run, batch: Any) -> None:
        if self.state.step == step:
            raise KeyboardInterrupt
        do_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(worker._Run, "do_step", dying)
        patch.setattr(PhaseTimer, "__exit__", lambda clock, *error: None)  # A kill asks nobody.
        with pytest.raises(KeyboardInterrupt):
            worker.fit(training_spec(str(tmp_path)), run, data)
    worker.fit(training_spec(str(tmp_path)), run, data)
    return run


@pytest.mark.parametrize(("killed_at", "recomputed"), [(3, 3), (7, 0), (10, 2), (20, 0)])
def test_recomputed_steps_are_what_the_kill_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, recomputed: int
) -> None:
    run = fit_and_kill(tmp_path, monkeypatch, killed_at)
    result = account_of(run)
    assert (result.useful_steps, result.recomputed_steps, result.restarts) == (21, recomputed, 1)
    assert (result.seconds["recomputed_step"] > 0) == (recomputed > 0)
    assert result.rows == 3 * 200 + sum(
        r["rows"] for r in step_records(run)[killed_at - recomputed : killed_at]
    )


def test_a_stall_of_the_data_is_data_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather: Callable[..., Any] = Rows.gather
    calls = itertools.count()

    def stalling(rows: Rows, positions: Any) -> Any:
        if next(calls) == 5:
            time.sleep(0.5)
        return gather(rows, positions)

    monkeypatch.setattr(Rows, "gather", stalling)
    data, run = write_pictures(Storage(str(tmp_path / "data"))), Storage(str(tmp_path / "run"))
    worker.fit(training_spec(str(tmp_path)), run, data)
    result = account_of(run)
    assert result.seconds["data_wait"] >= 0.5
    assert result.seconds["useful_step"] > result.validation_s > 0
