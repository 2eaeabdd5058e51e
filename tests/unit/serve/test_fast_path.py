"""The short way of a request: the same HTTP as uvicorn's, Serve's books are kept, all else goes Serve's way."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http import auto

from raydc.engine import internals
from raydc.serve.direct import fast_path, head_limits, serve_accounting
from raydc.serve.direct.fast_path import FastPath, Write
from raydc.serve.http.request import CLIENT_CLOSED, EncodedResponse, Request, json_response

WAIT_S = 20.0
# More than the buffers of two sockets hold.
LARGE = 40_000_000
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FakeBooks:
    route_prefix = "/small"

    def __init__(self) -> None:
        self.in_work = 0
        self.ended: list[tuple[str, int]] = []

    def begin(self) -> None:
        self.in_work += 1

    def end(self, method: str, status: int, seconds: float) -> None:
        self.in_work -= 1
        self.ended.append((method, status if 0.0 <= seconds < WAIT_S else -1))


class Scene:
    """A server whose connections take the short way; `go_on` lets `/wait` answer."""

    def __init__(self) -> None:
        self.books = FakeBooks()
        self.go_on = asyncio.Event()
        self.waiting = asyncio.Event()
        self.port = 0
        self.server: uvicorn.Server | None = None

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["root_path"] == ""
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
        )
        await send({"type": "http.response.body", "body": b"serve"})

    async def respond(self, asked: Request, write: Write) -> int:
        scope = asked.scope
        assert scope["root_path"] == "/small"
        path = scope["path"].removeprefix("/small")
        if path in ("/wait", "/gone"):
            self.waiting.set()
            await self.go_on.wait()
        if path == "/break":
            raise asyncio.CancelledError
        if path in ("/early", "/gone"):
            answer = json_response({"path": path}, 429)
        else:
            body = await asked.read(200_000)
            answer = json_response(
                {"path": path, "body": body.decode(), "request_id": asked.id}, 404
            )
            if path == "/large":
                answer = EncodedResponse(200, b"l" * LARGE)
        return answer.status_code if await write(answer) else CLIENT_CLOSED

    async def connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, sent: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        reader, writer = await self.connect()
        writer.write(sent)
        return await answer(reader)


def run(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Scene], Awaitable[None]]) -> Scene:
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)

    async def main() -> Scene:
        scene = Scene()
        head_limits.limit(lambda app: FastPath(app, scene.books, scene.respond))
        scene.server = uvicorn.Server(
            uvicorn.Config(
                scene.serve,
                "127.0.0.1",
                0,
                log_level="error",
                interface="asgi3",
                lifespan="off",
                proxy_headers=False,
                timeout_keep_alive=60,
            )
        )
        serving = asyncio.create_task(scene.server.serve())
        async with asyncio.timeout(WAIT_S):
            while not scene.server.started:
                await asyncio.sleep(0.01)
            scene.port = scene.server.servers[0].sockets[0].getsockname()[1]
            await scenario(scene)
            scene.server.should_exit = True
            await serving
        return scene

    return asyncio.run(main())


async def answer(
    reader: asyncio.StreamReader, has_body: bool = True
) -> tuple[int, dict[bytes, bytes], bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head[:-4].split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    assert len(headers) == len(lines)
    assert status.startswith(b"HTTP/1.1 ")
    return (
        int(status.split()[1]),
        headers,
        await reader.readexactly(int(headers[b"content-length"]) * has_body),
    )


def test_an_answer_is_whole_and_the_books_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        for _ in range(2):  # The connection stays.
            writer.write(
                b"POST /small/a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nx-request-id: r-1\r\n\r\nab"
            )
            await writer.drain()
            writer.write(b"cd")
            status, headers, body = await answer(reader)
            assert (status, body) == (404, b'{"path":"/a","body":"abcd","request_id":"r-1"}')
            assert headers[b"content-type"] == b"application/json"
            assert headers[b"x-request-id"] == b"r-1"
            assert b"connection" not in headers

    scene = run(monkeypatch, scenario)
    assert (scene.books.in_work, scene.books.ended) == (0, [("POST", 404)] * 2)


def test_who_gives_no_id_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        _, headers, body = await scene.ask(b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n")
        assert len(headers[b"x-request-id"]) == 32
        assert headers[b"x-request-id"] in body

    run(monkeypatch, scenario)


def test_pipelined_requests_are_answered_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(
            b"".join(
                b"GET /small/%s HTTP/1.1\r\nhost: x\r\n\r\n" % path
                for path in (b"wait", b"b", b"c")
            )
        )
        await scene.waiting.wait()
        scene.go_on.set()
        for path in (b"/wait", b"/b", b"/c"):
            assert path in (await answer(reader))[2]

    run(monkeypatch, scenario)


def test_a_head_is_answered_without_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(
            b"HEAD /small/a HTTP/1.1\r\nhost: x\r\n\r\nGET /small/b HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        _, headers, _ = await answer(reader, has_body=False)
        assert int(headers[b"content-length"]) > 0
        assert b"/b" in (await answer(reader))[2]

    run(monkeypatch, scenario)


@pytest.mark.parametrize(
    "sent", [b"GET /small HTTP/1.0\r\n\r\n", b"GET /small HTTP/1.1\r\nconnection: close\r\n\r\n"]
)
def test_a_connection_closes_when_the_client_says_so(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(sent)
        assert (await answer(reader))[1][b"connection"] == b"close"
        assert await reader.read() == b""

    run(monkeypatch, scenario)


@pytest.mark.parametrize(
    "body",
    [
        b"content-length: 100000\r\n\r\n" + b"x" * 100_000,
        b"transfer-encoding: chunked\r\n\r\n" + b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n",
    ],
)
def test_a_body_that_is_not_read_is_not_in_the_next_requests_way(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        head = b"POST /small/%s HTTP/1.1\r\nhost: x\r\n"
        for _ in range(2):
            writer.write(head % b"early" + body[:40_000])
            assert (await answer(reader))[0] == 429
            writer.write(body[40_000:] + head % b"a" + body)
            status, _, content = await answer(reader)
            assert (status, content.count(b"x")) == (404, 100_000)

    run(monkeypatch, scenario)


def test_a_client_that_asks_first_is_told_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(
            b"POST /small/a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert b'"body":"ab"' in (await answer(reader))[2]

    run(monkeypatch, scenario)


def test_who_sends_requests_and_reads_no_answers_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_DRAIN_TIMEOUT_S", 0.2)

    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /small/large HTTP/1.1\r\nhost: x\r\n\r\n" * 4)
        while len(scene.books.ended) < 2:
            await asyncio.sleep(0.01)
        assert scene.books.in_work == 0
        assert scene.books.ended[:2] == [("GET", 200), ("GET", 499)]
        writer.transport.abort()
        assert reader is not None

    run(monkeypatch, scenario)


@pytest.mark.parametrize("path", [b"/-/healthz", b"/-/routes", b"/other"])
def test_what_is_not_raydcs_goes_serves_way(monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        if path.startswith(b"/-/"):
            scene.books.route_prefix = "/"
        assert (await scene.ask(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path))[2] == b"serve"

    assert run(monkeypatch, scenario).books.ended == []


def test_where_serve_answers_below_a_path_of_its_own_requests_go_its_way() -> None:
    asked: list[str] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])

    async def respond(asked: Request, write: Write) -> int:
        raise AssertionError("the path is not what raydc would take it for")

    kept = FakeBooks()
    kept.route_prefix = "/"
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/root/predict",
        "root_path": "/root",
        "headers": [],
    }
    asyncio.run(FastPath(serve, kept, respond)(scope, None, None))
    assert (asked, kept.ended) == (["/root/predict"], [])


def test_a_client_that_goes_leaves_the_books_right(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        _, writer = await scene.connect()
        writer.write(b"GET /small/gone HTTP/1.1\r\nhost: x\r\n\r\n")
        await scene.waiting.wait()
        assert scene.books.in_work == 1
        writer.transport.abort()
        while scene.server is not None and scene.server.server_state.connections:
            await asyncio.sleep(0.01)
        scene.go_on.set()

    scene = run(monkeypatch, scenario)
    assert (scene.books.in_work, scene.books.ended) == (0, [("GET", 499)])


def test_what_is_cancelled_is_out_of_the_books(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        status, _, _ = await scene.ask(b"GET /small/break HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status == 500

    assert run(monkeypatch, scenario).books.ended == [("GET", 499)]


def test_a_server_that_ends_answers_what_is_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"GET /small/wait HTTP/1.1\r\nhost: x\r\n\r\n")
        await scene.waiting.wait()
        assert scene.server is not None
        scene.server.should_exit = True
        while scene.server.servers[0].is_serving():
            await asyncio.sleep(0.01)
        scene.go_on.set()
        assert (await answer(reader))[1][b"connection"] == b"close"

    run(monkeypatch, scenario)


# Serve's application ----------------------------------------------------------------------------------------


def serves_application(**more: Any) -> Any:
    """As Serve gives it to uvicorn, of a replica that nobody has started."""
    replica = object.__new__(internals.Replica)
    metrics = SimpleNamespace(**dict.fromkeys(serve_accounting._OF_METRICS))
    wrapper = SimpleNamespace(_run_user_code_in_separate_thread=False)
    given = {
        "_metrics_manager": metrics,
        "_deployment_id": None,
        "_route_prefix": "/",
        "_user_callable_wrapper": wrapper,
    }
    replica.__dict__.update(
        {name: value for name, value in {**given, **more}.items() if value != "missing"}
    )
    return ProxyHeadersMiddleware(internals.RequestIdMiddleware(replica._direct_ingress_asgi))


def test_the_replica_is_found_behind_serves_own_middleware() -> None:
    assert fast_path.is_possible()
    assert serve_accounting.of_application(serves_application()) is not None


@pytest.mark.parametrize(
    "more",
    [
        {"_user_callable_wrapper": SimpleNamespace(_run_user_code_in_separate_thread=True)},
        {"_deployment_id": "missing"},
        {"_metrics_manager": SimpleNamespace()},
    ],
)
def test_a_replica_of_another_kind_keeps_serves_way(more: dict[str, Any]) -> None:
    assert serve_accounting.of_application(serves_application(**more)) is None


def test_middleware_of_somebody_else_is_not_passed_by() -> None:
    app = serves_application()

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    app.app._app, between = other, app.app._app
    assert serve_accounting.of_application(app) is None
    assert serve_accounting.of_application(ProxyHeadersMiddleware(other)) is None
    assert serve_accounting.of_application(between.__self__._direct_ingress_asgi) is not None


def manager() -> Any:
    """Serve's own keeper of metrics, without what sends them away."""
    http = internals.RequestProtocol.HTTP
    made = object.__new__(internals.ReplicaMetricsManager)
    counts = lambda: defaultdict(lambda: defaultdict(int))  # noqa: E731
    made.__dict__.update(
        _ingress=True, _cached_metrics_enabled=True, _num_ongoing_requests=0,
        _ingress_metrics={http: None}, _ingress_ongoing_requests={http: 0},
        _cached_request_counter=defaultdict(int), _cached_error_counter=defaultdict(int),
        _cached_latencies=defaultdict(deque), _cached_ingress_request_counter=counts(),
        _cached_ingress_request_error_counter=counts(), _cached_deployment_request_error_counter=counts(),
        _cached_ingress_processing_latencies=defaultdict(lambda: defaultdict(deque)),
        _max_processing_latency_trackers=defaultdict(Total), _user_code_time_accumulator=Total(),
        _should_emit_request_ingress_metrics=lambda protocol: True,
    )  # fmt: skip
    return made


class Total:
    def __init__(self) -> None:
        self.total = self.most = 0.0

    def add(self, value: float) -> None:
        self.total += value
        self.most = max(self.most, value)


def test_the_books_say_what_serve_itself_would_have_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.serve._private.replica.RAY_SERVE_ENABLE_DIRECT_INGRESS", True)
    requests = [
        ("POST", 200, 0.5),
        ("POST", 200, 0.25),
        ("GET", 200, 0.125),
        ("POST", 422, 1.0),
        ("POST", 499, 2.0),
    ]
    serves, own, http = manager(), manager(), internals.RequestProtocol.HTTP
    replica = SimpleNamespace(
        _metrics_manager=own,
        _route_prefix="/a",
        _deployment_id=SimpleNamespace(app_name="small", name="Replica"),
    )

    async def scenario() -> None:
        kept = serve_accounting.ReplicaAccounting(replica)
        for _ in requests:
            kept.begin()
        assert own._num_ongoing_requests == own._ingress_ongoing_requests[http] == len(requests)
        for method, status, seconds in requests:
            kept.end(method, status, seconds)
            is_gone = status == CLIENT_CLOSED
            serves.record_request_metrics(
                route="/a", latency_ms=1e3 * seconds, is_error=is_gone,
                exception_type="CancelledError" if is_gone else None,
            )  # fmt: skip
            serves.record_ingress_request_metrics(
                protocol=http, method=method, route="/a", app_name="small", deployment_name="Replica",
                latency_ms=1e3 * seconds, is_error=status >= 400, status_code=str(status),
            )  # fmt: skip
        assert own._num_ongoing_requests == own._ingress_ongoing_requests[http] == 0
        async with asyncio.timeout(WAIT_S):
            while not own._cached_latencies:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
    for name, expected in serves.__dict__.items():
        if name.startswith("_cached"):
            assert getattr(own, name) == expected, name
    assert (
        own._user_code_time_accumulator.total == serves._user_code_time_accumulator.total == 3875.0
    )
    assert own._max_processing_latency_trackers["/a"].most == 2000.0
