"""Who drives a run: one process at a time, named by `driver.json` in the run's folder.

The driver renews its beat there every few seconds and removes the file when it ends. One that died is found out at
once on its own machine, by its process; from elsewhere by a beat that stands still. Two drivers cannot both begin: on
a local or network filesystem a lock of the file decides, on an object store, which has none, the last one to write, who
looks again after a pause. A driver that was away for long may have lost its run meanwhile: `owner` tells.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raydc.errors import RunError
from raydc.storage import Storage

FILE = "driver.json"
_GUARD = "driver.lock"
BEAT_EVERY_S = 3.0
# A beat that stands still for so long is that of a dead driver.
STILL_TIMEOUT_S = 15.0
_GUARD_TIMEOUT_S = 10.0
_SETTLE_S = 2.0


@dataclass(frozen=True)
class Driver:
    """A process that drives a run.

    Attributes:
        token: Of this claim.
        host: Its name.
        pid: Of the process there.
        machine: Boot and process namespace in which the pid means something.
        process_start: When the process began, by the clock of that machine, as the kernel says it.
        since_s: Unix time of the claim.
        beat_s: Unix time of the newest beat, by the clock of that machine.
    """

    token: str
    host: str
    pid: int
    machine: str
    process_start: str
    since_s: float
    beat_s: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since_s))
        return f"process {self.pid} on {self.host}, since {since}"


_held: dict[str, Driver] = {}


@contextlib.contextmanager
def hold(folder: Storage) -> Iterator[None]:
    """Drives the run of a folder until the end of the block; in this process blocks may be nested.

    Raises:
        RunError: Another process drives it.
    """
    if folder.uri in _held:
        yield
        return
    driver = _claim(folder)
    _held[folder.uri] = driver
    over = threading.Event()
    beating = threading.Thread(
        target=_beat, args=(folder, driver, over), name="raydc-lease", daemon=True
    )
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join(STILL_TIMEOUT_S)
        del _held[folder.uri]
        with contextlib.suppress(OSError), _guarded(folder):
            if owner(folder) == driver.token:
                folder.delete(FILE)


def owner(folder: Storage) -> str | None:
    """Token of the claim on a run, or None. Raises OSError."""
    driver = read(folder)
    return driver.token if driver else None


def watch(folder: Storage) -> Callable[[], None]:
    """A check for those who write to a run: raises RunError once another process than now drives it."""
    token = owner(folder)

    def check() -> None:
        now = read(folder)
        if token is not None and now is not None and now.token != token:
            raise RunError(
                f"the run at {folder.uri} has been taken over by {now}, while this process did not answer",
                "Nothing more is written here. Follow it there.",
            )

    return check


def read(folder: Storage) -> Driver | None:
    """The process that claims to drive a run, dead or alive. Raises OSError."""
    try:
        return Driver(**folder.read_json(FILE))
    except (
        FileNotFoundError,
        ValueError,
        TypeError,
    ):  # None; or one that was cut off, and so is dead.
        return None


def seems_alive(driver: Driver) -> bool:
    """Whether a driver is alive, as far as can be said at once: by its process here, else by its clock and ours."""
    if driver.machine == _machine():
        return _process_start(driver.pid) == driver.process_start
    return abs(time.time() - driver.beat_s) < STILL_TIMEOUT_S


# The claim -------------------------------------------------------------------------------------------


def _claim(folder: Storage) -> Driver:
    now_s = time.time()
    mine = Driver(
        uuid.uuid4().hex,
        socket.gethostname(),
        os.getpid(),
        _machine(),
        _process_start(os.getpid()),
        now_s,
        now_s,
    )
    judged: Driver | None = None
    if folder.is_local:
        os.makedirs(folder.local_path, exist_ok=True)
    while True:
        with _guarded(folder):
            found = read(folder)
            if found == judged:  # None, or one that has been judged dead and has not moved since.
                folder.write_json(FILE, asdict(mine))
                break
        if found is not None and _is_alive(folder, found):
            raise RunError(
                f"the run at {folder.uri} is driven by {found}",
                "Wait for it or stop it there. A driver that died without a word is forgotten after "
                f"{STILL_TIMEOUT_S:.0f} s.",
            )
        judged = found
    if not folder.is_local:
        time.sleep(_SETTLE_S)
        found = read(folder)
        if found is not None and found.token != mine.token:
            raise RunError(
                f"the run at {folder.uri} was taken by {found}", "Wait for it or stop it there."
            )
    return mine


def _is_alive(folder: Storage, driver: Driver) -> bool:
    """On this machine by its process; elsewhere by whether its beat moves, which needs no clock of theirs."""
    if driver.machine == _machine():
        return seems_alive(driver)
    deadline_s = time.monotonic() + STILL_TIMEOUT_S
    while time.monotonic() < deadline_s:
        time.sleep(min(1.0, STILL_TIMEOUT_S / 10))
        if read(folder) != driver:
            return read(folder) is not None
    return False


@contextlib.contextmanager
def _guarded(folder: Storage) -> Iterator[None]:
    """One process at a time, where the filesystem can see to it. Raises TimeoutError."""
    if not folder.is_local:
        yield
        return
    descriptor = os.open(folder.local_path / _GUARD, os.O_RDWR | os.O_CREAT, 0o644)
    deadline_s = time.monotonic() + _GUARD_TIMEOUT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    place = str(folder.local_path / _GUARD)
                    raise TimeoutError(
                        errno.ETIMEDOUT, "another process holds this lock", place
                    ) from None
                time.sleep(0.02)
            except OSError:
                break  # No locks here; what is left is the order of writing.
        yield
    finally:
        os.close(descriptor)


def _beat(folder: Storage, driver: Driver, over: threading.Event) -> None:
    while not over.wait(BEAT_EVERY_S):
        with (
            contextlib.suppress(OSError),
            _guarded(folder),
        ):  # Storage that is away: the next beat may come through.
            if owner(folder) != driver.token:
                return  # Taken by another, or moved aside: it is not for this one to write there.
            folder.write_json(FILE, asdict(replace(driver, beat_s=time.time())))


def _machine() -> str:
    """What a process id is good for: this boot of this machine, and this namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # No /proc: beats decide.


def _process_start(pid: int) -> str:
    """When a process began; empty where there is none, or it has ended and only waits to be collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
