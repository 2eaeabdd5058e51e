"""An endpoint with tokens: its sockets, its metrics and its access log.

New and revoked tokens count within seconds, sockets are those of docs/security.md, metrics come out
of Ray's port, and each request is a line of the access log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import small_models
from endpoints import SMALL, WAIT_S, ask, register, take_down, wait_for

from raydc import engine, serve
from raydc.registry import Registry
from raydc.serve.control import rollout
from raydc.serve.http import authentication
from raydc.storage import Storage
from raydc.tokens import TokenStore

MODEL = "guarded"
ROWS = json.dumps(small_models.table_rows(2)).encode()


@pytest.fixture(scope="module", params=["auto", "off"])
def direct(request: pytest.FixtureRequest) -> str:
    """The setting `serve.direct`: the direct path and Ray Serve's."""
    return str(request.param)


@pytest.fixture(scope="module")
def guarded(ray_engine: engine.Engine, storage: Storage, direct: str) -> Iterator[serve.Endpoint]:
    """An endpoint with `auth: token` and no token yet."""
    if not Registry(storage).versions(MODEL):
        for seed in range(2):
            register(storage, small_models.table_features(), seed, MODEL)
    given = small_models.small_spec(
        storage.uri,
        MODEL,
        ray_actor_options=SMALL,
        autoscaling_config={"max_replicas": 1},
        auth="token",
        direct=direct,
    )
    yield serve.deploy(given, storage, 1)
    take_down()


@pytest.fixture
def tokens(guarded: serve.Endpoint, storage: Storage) -> TokenStore:
    return TokenStore(storage, MODEL)


def predict(url: str, token: str | None, path: str = "/predict", **headers: str) -> int:
    given = {"authorization": f"Bearer {token}"} if token else {}
    return ask(url, "POST", path, ROWS, content_type="application/json", **given, **headers)[0]


def replica_url(guarded: serve.Endpoint) -> str:
    """The replica's own port, past HAProxy."""
    ports: list[int] = []

    def is_one() -> bool:
        ports[:] = [
            port
            for kind, host, port in listeners()
            if (kind, host) == ("ServeReplica", "127.0.0.1")
        ]
        return len(ports) == 1

    wait_for(is_one, "one replica listens; those of the test before are gone")
    return f"http://127.0.0.1:{ports[0]}"


# Tokens -------------------------------------------------------------------------------------------


def test_endpoint_without_token_is_closed_except_health(guarded: serve.Endpoint) -> None:
    for url in (guarded.url, replica_url(guarded)):
        for path in (
            "/v2/models/guarded",
            "/v2",
            "/docs",
            "/openapi.json",
            "/nowhere",
            "/v2/models/other",
        ):
            status, headers, answer = ask(url, "GET", path)
            assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="raydc"'), path
            assert set(answer) == {"error", "request_id"}
        assert predict(url, None) == 401
        assert predict(url, "raydc_0000000000000000_x") == 401
        for path in ("/v2/health/live", "/v2/health/ready", "/healthz", "/ping"):
            assert ask(url, "GET", path)[0] == 200, path


def test_new_and_revoked_tokens_count_within_seconds(
    guarded: serve.Endpoint, storage: Storage, tokens: TokenStore
) -> None:
    assert authentication.REFRESH_INTERVAL_S < 5
    ada, bob = tokens.create("ada"), tokens.create("bob", ("read", "promote"))
    for url in (guarded.url, replica_url(guarded)):
        wait_for(
            lambda url=url: predict(url, ada) == predict(url, bob) == 200, "new tokens are known"
        )  # type: ignore[misc]
    rollout.start(storage, MODEL, "production", "canary", 2, 0.0001)
    try:
        public, other = "/v2/models/guarded/versions/1", "/v2/models/guarded/versions/2"
        for token, path, status in (
            (ada, public, 200),
            (ada, other, 403),
            (bob, public, 200),
            (bob, other, 200),
        ):
            assert ask(guarded.url, "GET", path, authorization=f"Bearer {token}")[0] == status, (
                path,
                status,
            )
    finally:
        rollout.end(storage, MODEL, "production", "canary")
    tokens.revoke("ada")
    for url in (guarded.url, replica_url(guarded)):
        wait_for(lambda url=url: predict(url, ada) == 401, "a revoked token is refused")  # type: ignore[misc]
        assert predict(url, bob) == 200
    tokens.revoke("bob")


# Sockets ------------------------------------------------------------------------------------------


def listeners() -> set[tuple[str, str, int]]:
    """What every process of this test's Ray listens on: kind of process, address, port."""
    import psutil  # Ray brings it along, and it can be imported when Ray has been.

    found: set[tuple[str, str, int]] = set()
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # It has just ended.
            kind = kind_of(process)
            found |= {
                (kind, connection.laddr.ip, connection.laddr.port)
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
    return found


def kind_of(process: Any) -> str:
    if process.pid == os.getpid():
        return "driver"
    command = (process.cmdline() or [process.name()])[0]
    return command[5:].split(":")[0] if command.startswith("ray::") else Path(command).name


def documented(root: Path) -> set[tuple[str, str]]:
    """Process and address of each line of the table."""
    found: set[tuple[str, str]] = set()
    text = (
        (root / "docs/security.md")
        .read_text()
        .partition("## What listens")[2]
        .partition("\n## ")[0]
    )
    for line in text.splitlines():
        if match := re.match(r"\| (.*?) \| (host|all|node|loopback) \|", line):
            names = re.findall(r"`(\w+)`", match[1]) + [
                name for name in ("other workers", "driver") if name in match[1]
            ]
            found |= {(name, match[2]) for name in names}
    return found


def test_every_listening_socket_is_documented(guarded: serve.Endpoint, root: Path) -> None:
    known = documented(root)
    named = {name for name, _ in known}
    words = {
        ray.util.get_node_ip_address(): "node",
        "0.0.0.0": "all",
        "::": "all",
        "127.0.0.1": "loopback",
    }

    def found() -> set[tuple[str, str]]:
        return {
            (kind if kind in named else "other workers", words.get(host, host))
            for kind, host, _ in listeners()
        }

    # serve.host is 127.0.0.1 here, and a machine without a network has no other address either.
    same = {"host"} | ({"node"} if words[ray.util.get_node_ip_address()] == "loopback" else set())
    here = {(name, "loopback" if place in same else place) for name, place in known}
    # These come and go: other workers, and the agent's port that a second Ray of a machine does
    # without.
    optional = {
        ("other workers", "all"),
        ("DashboardAgent", "node"),
        ("DashboardAgent", "loopback"),
    }
    wait_for(lambda: here - found() <= optional, f"sockets of {here - optional}")
    assert found() - here == set()


# Metrics and log ----------------------------------------------------------------------------------


def exported(label: str) -> list[str]:
    """Lines with a label at Ray's own port."""
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
        return [line for line in answer.read().decode().splitlines() if label in line]


def counted_by_serve() -> dict[str, float]:
    """Serve's own numbers of POST requests to this endpoint that were answered with 200."""
    found: dict[str, float] = {}
    for line in exported(f'application="{MODEL}"'):
        name = line.partition("{")[0]
        is_meant = name in (
            "ray_serve_num_http_requests_total",
            "ray_serve_http_request_latency_ms_count",
        )
        if is_meant and 'status_code="200"' in line and 'method="POST"' in line:
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


def metrics() -> dict[str, float]:
    """Metrics of this endpoint by name and chosen labels."""
    found: dict[str, float] = {}
    for line in exported(f'model="{MODEL}"'):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        shown = ",".join(
            labels[name] for name in ("version", "role", "code", "le") if labels.get(name)
        )
        name = f"{line.partition('{')[0]}{{{shown}}}"
        found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


def test_requests_are_counted_and_logged(
    guarded: serve.Endpoint, tokens: TokenStore, direct: str
) -> None:
    prefix = f"counted-{direct}-"  # The log of the other path has the same requests.
    token = tokens.create("carol")
    wait_for(lambda: predict(guarded.url, token) == 200, "the token is known")
    num_before = metrics().get("ray_raydc_requests_total{1,stable,200}", 0.0)
    for number in range(5):
        assert predict(guarded.url, token, x_request_id=f"{prefix}{number}") == 200
    assert predict(guarded.url, None, x_request_id=f"{prefix}no") == 401

    def is_counted() -> bool:
        found = metrics()
        number = found.get("ray_raydc_requests_total{1,stable,200}", 0.0)
        return (
            number >= num_before + 5
            and found["ray_raydc_request_seconds_count{1,stable,200}"] == number
            and found["ray_raydc_batched_requests_total{1}"] == number
            and found["ray_raydc_predicted_rows_total{1,stable}"] == 2 * number
            and found["ray_raydc_requests_total{401}"] >= 1
            and found["ray_raydc_requests_in_work{}"] == found["ray_raydc_requests_waiting{}"] == 0
            and list(counted_by_serve().values()) == [number, number]
        )

    wait_for(is_counted, "requests, rows and batches at Ray's port")

    lines = wait_for_lines(lambda line: line["request_id"].startswith(prefix), 6)
    assert [line["token"] for line in lines] == ["carol"] * 5 + [""]
    assert [line["status"] for line in lines] == [200] * 5 + [401]
    first = lines[0]
    assert (first["method"], first["path"], first["rows"], first["version"]) == (
        "POST",
        "/predict",
        2,
        "1",
    )
    assert (first["bytes_in"], first["role"], first["model"]) == (len(ROWS), "stable", MODEL)
    assert first["bytes_out"] > 0
    assert 0 < first["seconds"] < WAIT_S
    assert first["client"] == first["forwarded_for"] == "127.0.0.1"
    tokens.revoke("carol")


def wait_for_lines(
    is_wanted: Callable[[dict[str, Any]], bool], number: int
) -> list[dict[str, Any]]:
    """Lines of the access log, which is where Serve has its logs."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    found: list[dict[str, Any]] = []

    def there() -> bool:
        texts = [file.read_text() for file in folder.glob(f"raydc_access_{MODEL}_*.jsonl")]
        found[:] = [
            one for text in texts for one in map(json.loads, text.splitlines()) if is_wanted(one)
        ]
        return len(found) >= number

    wait_for(there, f"{number} lines in {folder}")
    return found


def test_error_holds_no_stack_trace(guarded: serve.Endpoint) -> None:
    for body in (b"{", b"\xff\xfe", b"[" * 100_000):
        _, _, answer = ask(guarded.url, "POST", "/predict", body, content_type="application/json")
        assert set(answer) == {"error", "request_id"}
        assert "Traceback" not in answer["error"]


def test_endless_head_is_refused_by_haproxy_and_replica(
    guarded: serve.Endpoint, direct: str
) -> None:
    # uvicorn has no limit on heads; only the direct path's protocol adds one.
    urls = [guarded.url] if direct == "off" else [guarded.url, replica_url(guarded)]
    for url in urls:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nX-Long: ")
            try:
                for _ in range(64):
                    connection.sendall(b"x" * 65536)
                answer = connection.recv(4096)
            except ConnectionError:
                continue  # Closed while more was being sent.
        assert b" 4" in answer.splitlines()[0], url
