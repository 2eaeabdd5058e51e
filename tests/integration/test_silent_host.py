"""A host that falls silent with a request in flight: HAProxy asks another replica. Without Ray."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import required
from test_haproxy_process import PROGRAM, WAIT_S, Replica, ask, free_ports, wait_for, write_config

from raydc.engine import haproxy_rules, serve_environment

# Of the test's own network, which no other host is in.
HERE, THERE = "10.213.77.1", "10.213.77.2"
# Answers health checks, and everything else never.
SILENT_SERVER = """
import sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/small/json/200":
            print("asked", flush=True)
            threading.Event().wait()
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"far")
    def log_message(self, *arguments):
        pass
server = ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def other_host() -> Iterator[str]:
    """A network namespace that stands for another host; returns its name."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        required.absent("only root can make a network namespace, with `ip`")
    name = f"raydc{os.getpid()}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a container without network namespaces: {error.stderr.decode()}")
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "inside", "netns", name)
        ip("addr", "add", f"{HERE}/24", "dev", name)
        ip("-n", name, "addr", "add", f"{THERE}/24", "dev", "inside")
        ip("link", "set", name, "up")
        ip("-n", name, "link", "set", "inside", "up")
        yield name
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", name)
        ip("netns", "del", name)


@contextlib.contextmanager
def running(*command: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_request_on_a_host_that_falls_silent_is_asked_again_elsewhere(
    other_host: str, tmp_path: Path
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    local, (port, remote) = server.server_address[1], free_ports(2)
    with serve_environment.make_folder() as folder:
        path = write_config(Path(folder), port, local)
        config = path.read_text()
        line = next(
            one for one in config.splitlines() if f"server replica 127.0.0.1:{local}" in one
        )
        # The other host is asked as long as it is up.
        both = [
            line.replace(f"replica 127.0.0.1:{local}", f"far {THERE}:{remote}"),
            f"{line} backup",
        ]
        path.write_text(config.replace(line, "\n".join(both)))
        program = serve_environment.local(Path(folder))[PROGRAM]
        far = ["ip", "netns", "exec", other_host, sys.executable, "-c", SILENT_SERVER]
        with (
            running(*far, THERE, str(remote), stdout=subprocess.PIPE) as there,
            running(program, "-db", "-f", str(path), "-dR", stderr=subprocess.DEVNULL),
        ):
            assert there.stdout is not None
            assert there.stdout.readline() == "ready\n"
            wait_for(lambda: _is_answered(port))
            # HAProxy may have asked the other host too early, and takes it for dead until then.
            wait_for(lambda: ask(port, "/small/text/200")[2] == b"far")
            answers: list[int] = []

            def send() -> None:
                answers.append(ask(port, "/small/json/200")[0])

            client = threading.Thread(target=send, daemon=True)
            client.start()
            ready, _, _ = select.select([there.stdout], [], [], WAIT_S)
            assert ready, "the other host was not asked"
            # From here on the other host answers no packet, not even by closing a connection.
            ip("-n", other_host, "addr", "del", f"{THERE}/24", "dev", "inside")
            client.join(60.0)
            assert answers == [200]
    server.shutdown()


def _is_answered(port: int) -> bool:
    try:
        return ask(port, f"/-/{haproxy_rules.MARK}")[0] == 204
    except OSError:
        return False
