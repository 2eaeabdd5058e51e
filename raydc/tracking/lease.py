"""The lease of a run: at most one driver at a time, named by `driver.json` in the run's folder.

Runs in the driver; workers only check that their driver still owns the run. The driver renews a
heartbeat every few seconds and removes the file when it ends. The death of a driver shows at once
on its own machine, by its process id; on other machines by a heartbeat that no longer changes.

Two drivers cannot both start. On a local or network filesystem a file lock decides; an object store
has no locks, so there the last writer wins, and each writer reads the file again after a pause. A
driver that was suspended may have lost its run meanwhile: the token of its claim differs from the
one in the file. It gives its claim to its workers: one that starts late would take the token in the
file for that of its own driver.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace

from raydc.errors import RunError
from raydc.storage import Storage
from raydc.tracking.process_identity import machine_scope, process_start

FILE = "driver.json"
LOCK_FILE = "driver.lock"
BEAT_EVERY_S = 3.0
# A heartbeat that has not changed for this long belongs to a dead driver: five beats, so that slow
# storage does not kill a living one.
STILL_TIMEOUT_S = 15.0
_LOCK_TIMEOUT_S = 10.0
# Some filesystems replace a file in two moves, between which there is none.
_ABSENT_PAUSES_S = (0.1, 0.5)
# A host may believe for a minute that a file is not there, because it was not when somebody looked
# (`lookupcache` and `acdirmax` of NFS): in a process that has not seen its claim yet.
_UNSEEN_PAUSES_S = (*_ABSENT_PAUSES_S, 5.0, 25.0, 35.0)
# On an object store: how long after a write another driver's write may still replace it.
_SETTLE_S = 2.0


@dataclass(frozen=True)
class Driver:
    """A process that drives a run.

    Attributes:
        token: Random name of this claim.
        host: Name of the host on which the driver runs.
        pid: Process id on that host.
        machine: Boot and process namespace in which the process id is valid.
        process_start: Start of the process in kernel clock ticks, as a text; separates two
            processes that were given the same id.
        since_s: Unix time of the claim.
        beat_s: Unix time of the newest heartbeat, by the clock of that machine.
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


class TakenOverError(RunError):
    """Another driver owns the run now. It says nothing about the run itself."""


@dataclass(frozen=True)
class Claim:
    """The claim of a driver on a run, for the driver itself and for its workers.

    Attributes:
        folder: Folder of the run.
        token: Random name of the claim, as in `Driver`.
    """

    folder: Storage
    token: str

    @property
    def is_lost(self) -> bool:
        """Whether the driver's heartbeat has found another owner; reads nothing."""
        return self.token in _lost

    def check(self) -> None:
        """Checks that the driver still owns the run.

        Raises:
            TakenOverError: Another driver does, or did and has ended since.
            OSError: The storage does not answer.
        """
        is_seen = self.token in _seen
        now = _read_patiently(self.folder, _ABSENT_PAUSES_S if is_seen else _UNSEEN_PAUSES_S)
        # Without its heartbeat a claim that is still there is as good as lost.
        is_mine = now is not None and now.token == self.token
        if self.is_lost or not is_mine:
            raise _taken_over(self.folder, None if is_mine else now)
        _seen.add(self.token)

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Turns any error in the block into TakenOverError, once the run has another owner."""
        try:
            yield
        except TakenOverError:
            raise
        except Exception as error:
            try:
                self.check()
            except TakenOverError as lost:
                raise lost from error
            except OSError:
                pass  # Nobody can say who owns it.
            raise


# Claims of this process, by URI of the run folder: `hold` may be nested.
_held: dict[str, Claim] = {}
# Tokens of claims that this process has made, or found in their files.
_seen: set[str] = set()
# Tokens of claims that heartbeats of this process no longer found in their files.
_lost: set[str] = set()


@contextlib.contextmanager
def hold(folder: Storage) -> Iterator[Claim]:
    """Holds the lease of a run folder inside the block; blocks of one process may be nested.

    Raises:
        RunError: Another process drives the run.
    """
    if folder.uri in _held:
        yield _held[folder.uri]
        return
    driver = _claim(folder)
    claim = _held[folder.uri] = Claim(folder, driver.token)
    _seen.add(claim.token)
    is_over = threading.Event()
    beating = threading.Thread(
        target=_beat, args=(folder, driver, is_over), name="raydc-lease", daemon=True
    )
    beating.start()
    try:
        yield claim
    finally:
        is_over.set()
        beating.join(STILL_TIMEOUT_S)
        del _held[folder.uri]
        _lost.discard(claim.token)
        # A file that cannot be removed expires by its heartbeat.
        with contextlib.suppress(OSError), _locked(folder):
            if owner_token(folder) == driver.token:
                folder.delete(FILE)


def owner_token(folder: Storage) -> str | None:
    """Token of the claim on a run, or None if there is no claim. Raises OSError."""
    driver = read_driver(folder)
    return driver.token if driver else None


def owner_check(folder: Storage) -> Callable[[], None]:
    """Returns a check for writers that were given no claim: the owner of now must stay the owner.

    The check raises TakenOverError.
    """
    token = owner_token(folder)

    def check() -> None:
        now = read_driver(folder)
        # Without a claim, then or now, there is no other driver to give way to.
        if token is not None and now is not None and now.token != token:
            raise _taken_over(folder, now)

    return check


def _taken_over(folder: Storage, now: Driver | None) -> TakenOverError:
    ended = f"was taken over, and its new driver has ended or {FILE} was removed,"
    who = f"was taken over by {now}" if now else ended
    return TakenOverError(
        f"the run at {folder.uri} {who} while this process did not respond",
        "This process writes nothing more. Follow the run there.",
    )


def read_driver(folder: Storage) -> Driver | None:
    """The process that claims to drive a run, dead or alive. Raises OSError."""
    try:
        claim = folder.read_json(FILE)
        # A newer raydc may write more fields; its driver is as alive as one of this version.
        driver = Driver(**{field.name: claim[field.name] for field in fields(Driver)})
        # Also raises for a damaged number, with which no age could be computed.
        return replace(
            driver, pid=int(driver.pid), since_s=float(driver.since_s), beat_s=float(driver.beat_s)
        )
    # A file that was cut off in the middle belongs to a dead driver, so it counts as none.
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _read_patiently(folder: Storage, pauses_s: Sequence[float]) -> Driver | None:
    """As `read_driver`, but a claim that is not there is looked for again after some pauses."""
    now = read_driver(folder)
    for pause_s in pauses_s:
        if now is None:
            time.sleep(pause_s)
            now = read_driver(folder)
    return now


def seems_alive(driver: Driver) -> bool:
    """Whether a driver is alive, without waiting.

    A driver of this machine is judged by its process, another one by the age of its heartbeat,
    which is only as reliable as the clocks of the two machines.
    """
    if driver.machine == machine_scope():
        return process_start(driver.pid) == driver.process_start
    return abs(time.time() - driver.beat_s) < STILL_TIMEOUT_S


def _claim(folder: Storage) -> Driver:
    now_s = time.time()
    here = socket.gethostname(), os.getpid(), machine_scope(), process_start(os.getpid())
    mine = Driver(uuid.uuid4().hex, *here, now_s, now_s)
    judged_dead: Driver | None = None
    if folder.is_local:
        os.makedirs(folder.local_path, exist_ok=True)
    while True:
        # Judging another machine's driver takes seconds and must not hold the lock. So a claim is
        # replaced only if it is still, heartbeat included, the one that was judged.
        with _locked(folder):
            found = read_driver(folder)
            if found == judged_dead:
                folder.write_json(FILE, asdict(mine))
                break
        if found is not None and _is_alive(folder, found):
            raise RunError(
                f"the run at {folder.uri} is driven by {found}",
                "Wait for it or stop it there. A driver that died unnoticed is forgotten after "
                f"{STILL_TIMEOUT_S:.0f} s.",
            )
        judged_dead = found
    if not folder.is_local:
        # Without a lock two drivers may both have written; the last one stays in the file.
        time.sleep(_SETTLE_S)
        found = read_driver(folder)
        if found is not None and found.token != mine.token:
            raise RunError(
                f"the run at {folder.uri} was taken by {found}", "Wait for it or stop it there."
            )
    return mine


def _is_alive(folder: Storage, driver: Driver) -> bool:
    """Whether a driver is alive, by its process on this machine, else by watching its heartbeat.

    Watching takes up to `STILL_TIMEOUT_S`, but needs no common clock.
    """
    if driver.machine == machine_scope():
        return seems_alive(driver)
    deadline_s = time.monotonic() + STILL_TIMEOUT_S
    while time.monotonic() < deadline_s:
        time.sleep(min(1.0, STILL_TIMEOUT_S / 10))
        if read_driver(folder) != driver:
            # Either it beats, or it has ended and removed its file.
            return read_driver(folder) is not None
    return False


@contextlib.contextmanager
def _locked(folder: Storage) -> Iterator[None]:
    """Excludes other processes, if the filesystem has locks. Raises TimeoutError."""
    if not folder.is_local:
        yield
        return
    # A file of its own: `driver.json` is replaced by renaming, which would drop a lock on it.
    descriptor = os.open(folder.local_path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    place = str(folder.local_path / LOCK_FILE)
                    raise TimeoutError(
                        errno.ETIMEDOUT, "another process holds this lock", place
                    ) from None
                time.sleep(0.02)
            except OSError:
                break  # Some network filesystems have no locks; then the last writer wins.
        yield
    finally:
        os.close(descriptor)


def _beat(folder: Storage, driver: Driver, is_over: threading.Event) -> None:
    while not is_over.wait(BEAT_EVERY_S):
        # Storage may be unavailable for a moment; the next beat may succeed.
        with contextlib.suppress(OSError), _locked(folder):
            # Another driver owns the run, or it was moved aside: writing would steal it back.
            now = _read_patiently(folder, _ABSENT_PAUSES_S)
            if now is None or now.token != driver.token:
                _lost.add(driver.token)
                return
            folder.write_json(FILE, asdict(replace(driver, beat_s=time.time())))
