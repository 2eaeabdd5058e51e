"""The wait for Ray to start or to answer: its limits, its signals, its errors. Runs in the driver.

Ray itself asks an address at which nothing listens for a quarter of an hour, in native code, where
no signal reaches it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from raydc.engine import internals, interruption
from raydc.errors import ClusterError, first_line

# How long a port that refuses is asked again: a cluster may just be starting.
PORT_TIMEOUT_S = 5.0
_NUM_CONNECTS = 3
# A local Ray may take its 120 s for the raylet on a busy machine; a cluster is up already.
LOCAL_TIMEOUT_S, CLUSTER_TIMEOUT_S = 180.0, 60.0
_SAY_AFTER_S = 5.0
# Ray's sockets are in a folder of about 60 characters, below TMPDIR; a path of one may have 107.
_MAX_TMPDIR_CHARS = 45
_WATCH_EVERY_S = 0.5
_is_left = threading.Event()
_NO_RAY_HINT = (
    "Check --address / RAY_ADDRESS, and RAY_AUTH_MODE and the token; leave both out for a local "
    "Ray."
)


def require_port(address: str) -> None:
    """Connects to the port of a Ray, which proves within seconds whether anything listens.

    Args:
        address: `host:port` or `ray://host:port`; other forms, such as `auto`, are not checked.

    Raises:
        ClusterError: Nothing listens there.
    """
    host, port = _split(address)
    if not port:
        return
    pause_s = PORT_TIMEOUT_S / _NUM_CONNECTS
    deadline_s = time.monotonic() + PORT_TIMEOUT_S
    reason = ""
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            socket.create_connection((host, port), min(pause_s, left_s)).close()
            return
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
        time.sleep(max(0.0, min(pause_s, deadline_s - time.monotonic())))
    raise ClusterError(f"no Ray at {address}: nothing answers there ({reason})", _NO_RAY_HINT)


def _split(address: str) -> tuple[str, int]:
    """Host and port of an address; port 0 if it names none."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    is_plain = "://" not in address.removeprefix("ray://")
    return (host.strip("[]"), int(port)) if is_plain and port.isdecimal() else ("", 0)


def running_address() -> str | None:
    """Address of the Ray that runs on this machine, or None. Raises ClusterError for several."""
    try:
        address = str(internals.canonicalize_bootstrap_address_or_die("auto"))
    except ConnectionError as error:
        if "multiple" in str(error):
            raise ClusterError(first_line(error), "Name one of them with --address.") from error
        return None
    # The record of a Ray that was killed stays behind.
    with contextlib.suppress(ClusterError):
        require_port(address)
        return address
    return None


def require_running() -> str:
    """Address of the Ray that runs on this machine. Raises ClusterError if there is none."""
    address = running_address()
    if address is None:
        raise ClusterError("no Ray runs on this machine", _NO_RAY_HINT)
    return address


@contextlib.contextmanager
def limited(address: str | None) -> Iterator[None]:
    """Runs `ray.init` in its block, with a limit, a line after seconds, and an error of ours.

    Args:
        address: Address of the Ray; None for a local one.

    Raises:
        ClusterError: Ray did not start or refused.
    """
    where = f"at {address}" if address else "in this process"
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(where, address, is_over), daemon=True)
    watch.start()
    try:
        here = contextlib.nullcontext() if address else _signals_stay_here()
        with interruption.idle(), keep_handlers(), here:
            yield
    except (ClusterError, KeyboardInterrupt):
        raise
    except Exception as error:  # Ray raises plain Exception where a node is too slow to start.
        raise ClusterError(f"no Ray {where}: {first_line(error)}", _hint(error, address)) from error
    finally:
        is_over.set()
        interruption.reinstall()


def keep_handlers() -> contextlib.AbstractContextManager[None]:
    """Keeps Ray from taking the signals of this process when it starts a node in the block."""
    # A program that does not catch signals through raydc has Ray's behaviour.
    if not interruption.is_catching():
        return contextlib.nullcontext()
    return internals.keeping_sigterm_handler()


@contextlib.contextmanager
def _signals_stay_here() -> Iterator[None]:
    """Keeps signals of a whole group from the processes that Ray starts in the block.

    `timeout`, SLURM and terminals signal the group, and a Ray that ends at once takes the workers
    with it before they could keep their state. Ray itself blocks Ctrl-C alone.
    """
    if not interruption.is_catching():
        yield
        return
    # A process inherits the mask. The thread of `interruption` takes the signals meanwhile.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, interruption.SIGNALS)
    try:
        yield
        internals.end_own_ray_at_once()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def watch_own() -> None:
    """Ends this process with one line if the Ray that it started dies.

    Ray itself would show a traceback, or abort a minute later.
    """
    _is_left.clear()
    if interruption.is_catching():
        threading.Thread(target=_watch_own, name="raydc-ray", daemon=True).start()


def leave_own() -> None:
    """Ends the watch, before the Ray of this process is ended on purpose."""
    _is_left.set()


def _watch_own() -> None:
    while not _is_left.wait(_WATCH_EVERY_S):
        dead = internals.dead_processes()
        if dead and not _is_left.is_set():
            _write(f"error: the local Ray has died: {', '.join(dead)}")
            if hint := interruption.hint():
                _write(f"  {hint}")
            # The main thread may wait for Ray for ever, and Ray's own end prints pages.
            os._exit(ClusterError.exit_code)


def _watch(where: str, address: str | None, is_over: threading.Event) -> None:
    timeout_s = CLUSTER_TIMEOUT_S if address else LOCAL_TIMEOUT_S
    if is_over.wait(_SAY_AFTER_S):
        return
    _write(f"ray       waiting for Ray {where}, for up to {timeout_s:.0f} s")
    if is_over.wait(timeout_s - _SAY_AFTER_S):
        return
    _write(f"error: no Ray {where}: it did not start within {timeout_s:.0f} s")
    _write(f"  {_hint(None, address)}")
    # The main thread is in native code of Ray, where no exception can reach it.
    os._exit(ClusterError.exit_code)


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _hint(error: Exception | None, address: str | None) -> str:
    text = str(error)
    if "AF_UNIX" in text or "path length" in text:
        return (
            "The path of the temporary folder is too long for sockets: set TMPDIR or RAY_TMPDIR "
            f"to a path of at most {_MAX_TMPDIR_CHARS} characters."
        )
    if isinstance(error, OSError) and error.filename:
        return f"This user needs to write {error.filename}: set TMPDIR or RAY_TMPDIR to a folder."
    if address:
        return _NO_RAY_HINT
    return "The logs of Ray's own processes are in /tmp/ray/session_latest/logs."
