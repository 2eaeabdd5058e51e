"""TLS in front of an endpoint with `cluster/nginx.conf`. Needs nginx."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import required
import uvicorn

from raydc.spec.sections import Serve

WAIT_S = 30.0


def require(command: str) -> str:
    """A command of a Debian package; where it must be there, its absence is a failure."""
    found = shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        required.absent(f"no {command} here: .ci/install-test-packages installs it")
    return str(found)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until_open(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert process is None or process.poll() is None, "it ended"
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port} after {WAIT_S:g} s")


class Echo:
    """Stands for an endpoint: says what reached it."""

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        told = {
            "path": scope["path"],
            "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
            "bytes": len(body),
        }
        status = 401 if scope["path"] == "/refused" else 200
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})


@dataclass
class Front:
    url: str
    port: int
    tls: ssl.SSLContext
    behind: uvicorn.Server

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.tls, timeout=WAIT_S)


@pytest.fixture(scope="module")
def front(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("front")
    nginx, openssl = require("nginx"), require("openssl")
    key, certificate = folder / "key.pem", folder / "fullchain.pem"
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    behind_port, port = free_port(), free_port()
    server = uvicorn.Server(
        uvicorn.Config(Echo(), "127.0.0.1", behind_port, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    edited = (root / "cluster/nginx.conf").read_text()
    for before, after in (
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{behind_port};"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/raydc/fullchain.pem", str(certificate)),
        ("/etc/ssl/raydc/key.pem", str(key)),
        ("client_body_timeout 10s", "client_body_timeout 1s"),
    ):
        assert edited.count(before) == 1, before
        edited = edited.replace(before, after)
    (folder / "raydc.conf").write_text(edited)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    own = "user root;\n" if os.getuid() == 0 else ""  # Who else runs it stays who they are.
    (folder / "main.conf").write_text(
        f"{own}daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}include {folder}/raydc.conf;\n}}\n"
    )
    command = [
        nginx,
        "-p",
        str(folder),
        "-e",
        str(folder / "error.log"),
        "-c",
        str(folder / "main.conf"),
    ]
    checked = subprocess.run(
        [*command, "-t"], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until_open(port, process)
        wait_until_open(behind_port)
        yield Front(
            f"https://127.0.0.1:{port}",
            port,
            ssl.create_default_context(cafile=str(certificate)),
            server,
        )
    finally:
        process.terminate()
        process.wait(WAIT_S)
        server.should_exit = True
        thread.join(WAIT_S)


def test_the_file_has_the_limits_of_the_spec(root: Path) -> None:
    text, section = (root / "cluster/nginx.conf").read_text(), Serve()
    assert f"client_max_body_size {section.max_request_bytes // 2**20}m;" in text
    assert f"proxy_read_timeout {section.request_timeout_s + 5:.0f}s;" in text


def test_token_and_request_id_pass_and_a_forged_origin_does_not(front: Front) -> None:
    given = {
        "authorization": "Bearer raydc_a_b",
        "x-request-id": "r-1",
        "x-forwarded-for": "203.0.113.9",
    }
    with front.client() as client:
        told = client.post("/predict", json=[{"age": 1}], headers=given).json()
        refused = client.get("/refused")
    assert {name: told["headers"][name] for name in given} == {
        **given,
        "x-forwarded-for": "127.0.0.1",
    }
    assert told["headers"]["x-forwarded-proto"] == "https"
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert "max-age" in refused.headers["strict-transport-security"]


def test_a_body_of_unknown_length_passes_whole(front: Front) -> None:
    with front.client() as client:
        told = client.post("/predict", content=(b"x" * 100_000 for _ in range(30))).json()
    assert told["bytes"] == 3_000_000


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_over_the_limit_is_refused_as_json(front: Front, is_declared: bool) -> None:
    num_bytes = 8 * 1024 * 1024 + 1
    with front.client() as client:
        for _ in range(20):
            content = (
                b"x" * num_bytes
                if is_declared
                else (b"x" * 65536 for _ in range(num_bytes // 65536 + 1))
            )
            try:
                answer = client.post("/predict", content=content)
            except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                continue  # The connection was closed while the rest was still being sent.
            assert answer.status_code == 413
            assert set(answer.json()) == {"error", "request_id"}
            return
    pytest.fail("no answer came through in 20 tries")


def test_plain_http_is_not_answered_by_the_endpoint(front: Front) -> None:
    answer = httpx.post(f"http://127.0.0.1:{front.port}/predict", timeout=WAIT_S)
    assert answer.status_code == 400
    assert "bytes" not in answer.text


def test_a_sender_that_falls_silent_is_let_go_before_the_endpoint_hears_of_it(front: Front) -> None:
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=WAIT_S) as raw,
        front.tls.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        answer = connection.recv(65536)
    assert answer == b"" or b" 408 " in answer.splitlines()[0]


def test_no_endpoint_is_a_503_as_json(front: Front) -> None:
    """The last one: it takes the endpoint away."""
    front.behind.should_exit = True
    deadline = time.monotonic() + WAIT_S
    with front.client() as client:
        while (answer := client.post("/predict", json=[])).status_code == 200:
            assert time.monotonic() < deadline
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert set(answer.json()) == {"error", "request_id"}
