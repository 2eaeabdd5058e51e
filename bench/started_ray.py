"""A Ray that `ray start --head` starts, as on a cluster of a user, and a second host for it.

The second host is a network namespace: a node of its own, whose network can be cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.stage import descendants, wait_for

# Of a network between this machine and the second host only.
HERE, THERE = "10.213.78.1", "10.213.78.2"
_RAY = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
_END_TIMEOUT_S = 20.0


@contextlib.contextmanager
def head(folder: Path, address: str, num_cpus: int) -> Iterator[str]:
    """A head with one node, which ends with the block; yields `host:port`.

    Args:
        folder: For its session; a short path, because sockets are in it.
        address: IP address of this machine that it has.
        num_cpus: Its CPUs.
    """
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    options = [
        "--head",
        f"--node-ip-address={address}",
        f"--port={port}",
        f"--num-cpus={num_cpus}",
        f"--temp-dir={folder}",
        "--include-dashboard=false",
    ]
    with _running([*_RAY, *options], folder / "head.log"):
        wait_for(lambda: _answers(address, port), "the head")
        yield f"{address}:{port}"


@contextlib.contextmanager
def second_host(folder: Path, head_address: str, num_cpus: int) -> Iterator[str]:
    """A node on another host, which ends with the block; yields the name of the host.

    Args:
        folder: For its log.
        head_address: `host:port` of the head, which must be at `HERE`.
        num_cpus: Its CPUs.
    """
    name = host_name()
    options = [f"--address={head_address}", f"--node-ip-address={THERE}", f"--num-cpus={num_cpus}"]
    command = ["ip", "netns", "exec", name, *_RAY, *options]
    with _running(command, folder / "second.log"):
        yield name


@contextlib.contextmanager
def network() -> Iterator[bool]:
    """The network of the second host; yields False where there can be none: it needs root."""
    name = host_name()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        yield False
        return
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        yield False
        return
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "inside", "netns", name)
        _ip("addr", "add", f"{HERE}/24", "dev", name)
        _ip("-n", name, "addr", "add", f"{THERE}/24", "dev", "inside")
        _ip("link", "set", name, "up")
        _ip("-n", name, "link", "set", "inside", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield True
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", name)
        _ip("netns", "del", name)


def host_name() -> str:
    return f"raydc{os.getpid()}"


def cut(name: str) -> None:
    """From here on the host answers no packet, not even by closing a connection."""
    _ip("-n", name, "link", "set", "inside", "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        started = [process.pid, *descendants(process.pid)]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
        # Those that have lost their parent meanwhile are not descendants any more.
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(_END_TIMEOUT_S)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    # The port is open before the head takes nodes and drivers.
    time.sleep(1.0)
    return True
