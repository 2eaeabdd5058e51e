"""The lease of a run: one driver at a time."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from raydc.errors import RunError
from raydc.storage import Storage
from raydc.tracking import lease
from raydc.tracking.process_identity import process_start

LONG_S = 30.0
HOLD = (
    "import sys; from raydc.tracking import lease; from raydc.storage import Storage\n"
    "with lease.hold(Storage(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def other(folder: Storage) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_second_driver_is_refused_and_learns_who_the_first_is(
    folder: Storage, other: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(
            RunError, match=rf"is driven by process {other.pid} on \S+, since \d{{4}}-"
        ) as caught,
        lease.hold(folder),
    ):
        pass
    assert "Wait for it or stop it there" in (caught.value.hint or "")
    other.communicate("")  # End of input: it ends and removes its claim.
    with lease.hold(folder):
        driver = lease.read_driver(folder)
        assert driver is not None
        assert driver.pid == os.getpid()
    assert lease.read_driver(folder) is None


@pytest.mark.parametrize("is_collected", [True, False])
def test_killed_driver_does_not_block_the_next(
    folder: Storage, other: subprocess.Popen[str], is_collected: bool
) -> None:
    other.send_signal(signal.SIGKILL)
    if is_collected:
        other.wait(LONG_S)
    else:
        deadline_s = time.monotonic() + LONG_S
        # Its parent does not wait for it, so it stays in the process table as a zombie.
        while process_start(other.pid):
            assert time.monotonic() < deadline_s
        assert Path(f"/proc/{other.pid}").exists()
    assert lease.owner_token(folder) is not None
    with lease.hold(folder):
        assert lease.read_driver(folder).pid == os.getpid()  # type: ignore[union-attr]


def test_hold_nested_in_one_process_keeps_one_claim(folder: Storage) -> None:
    with lease.hold(folder):
        token = lease.owner_token(folder)
        with lease.hold(folder):
            assert lease.owner_token(folder) == token
        assert lease.owner_token(folder) == token
    assert lease.owner_token(folder) is None


def write_foreign_claim(folder: Storage) -> lease.Driver:
    """Writes the claim of a driver on another machine."""
    driver = lease.Driver("t", "far", 7, "another boot", "1", time.time(), time.time())
    folder.write_json(lease.FILE, asdict(driver))
    return driver


def test_driver_of_another_machine_is_judged_by_its_heartbeat(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STILL_TIMEOUT_S", 0.3)
    write_foreign_claim(folder)  # Never beats again.
    with lease.hold(folder):
        assert lease.owner_token(folder) != "t"

    monkeypatch.setattr(lease, "STILL_TIMEOUT_S", LONG_S)
    driver, is_over = write_foreign_claim(folder), threading.Event()

    def beat() -> None:
        number = 0
        while not is_over.wait(0.02):
            number += 1
            folder.write_json(lease.FILE, asdict(replace(driver, beat_s=float(number))))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(RunError, match="driven by process 7 on far"), lease.hold(folder):
        pass
    is_over.set()
    thread.join()


def test_driver_that_lost_its_run_does_not_write_to_it(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.01)
    with lease.hold(folder):
        before = lease.read_driver(folder)
        assert before is not None
        deadline_s = time.monotonic() + LONG_S
        while lease.read_driver(folder) in (before, None):
            assert time.monotonic() < deadline_s
        taken = threading.Event()
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_held", {})  # As another process would see it.
            patch.setattr(lease, "_is_alive", lambda *_: False)
            with lease.hold(folder):
                taken.set()
                assert lease.owner_token(folder) != before.token
                # Under the lock, as every driver writes: a beat under way must not follow it.
                with lease._locked(folder):
                    write_foreign_claim(folder)
    assert taken.is_set()
    assert lease.owner_token(folder) == "t"


def test_claim_of_a_driver_that_lost_its_run_explains_all_errors(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.01)
    with lease.hold(folder) as claim:
        with lease.hold(folder) as nested:
            assert nested == claim
        claim.check()
        # As long as it owns the run, an error is its own.
        with pytest.raises(KeyError), claim.explain_errors():
            raise KeyError
        assert not claim.is_lost
        with lease._locked(folder):
            write_foreign_claim(folder)
        with pytest.raises(lease.TakenOverError, match="taken over by process 7 on far") as found:
            claim.check()
        assert found.value.exit_code == 5
        with pytest.raises(lease.TakenOverError), claim.explain_errors():
            raise FileNotFoundError("a file that the other driver has removed")
        # The heartbeat notices it without anybody who asks, and ends.
        deadline_s = time.monotonic() + LONG_S
        while not claim.is_lost:
            assert time.monotonic() < deadline_s
    # Ray pickles it for the workers.
    assert pickle.loads(pickle.dumps(claim)).token == claim.token  # noqa: S301


def test_lock_that_is_never_released_times_out_without_a_claim(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_LOCK_TIMEOUT_S", 0.05)
    folder.local_path.mkdir(parents=True, exist_ok=True)
    with (
        lease._locked(folder),
        pytest.raises(TimeoutError, match="another process holds this lock"),
    ):
        lease._claim(folder)
    assert lease.read_driver(folder) is None


def test_truncated_claim_counts_as_none(folder: Storage) -> None:
    folder.write_bytes(lease.FILE, b'{"token": "a", "ho')
    with lease.hold(folder):
        assert lease.owner_token(folder) is not None


def test_seems_alive_uses_process_here_and_heartbeat_elsewhere(folder: Storage) -> None:
    far = write_foreign_claim(folder)
    assert lease.seems_alive(far)
    assert not lease.seems_alive(replace(far, beat_s=time.time() - 60.0))
    with lease.hold(Storage(folder.uri + "2")):
        mine = lease.read_driver(Storage(folder.uri + "2"))
        assert mine is not None
        assert lease.seems_alive(mine)
        assert not lease.seems_alive(replace(mine, process_start="1"))
