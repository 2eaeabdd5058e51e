"""The short way of a request: the same HTTP as uvicorn's, Serve's books are kept, all else goes Serve's way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http import auto

from raydc import rayinternals
from raydc.serve import books, heads
from raydc.serve.fastpath import FastPath
from raydc.serve.wire import Asked, answer_json

WAIT_S = 20.0
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
        self.ended.append((method, status))
        assert 0.0 <= seconds < WAIT_S


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
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"serve"})

    async def respond(self, asked: Asked) -> Response:
        scope = asked.scope
        assert scope["root_path"] == "/small"
        path = scope["path"].removeprefix("/small")
        if path == "/wait":
            self.waiting.set()
            await self.go_on.wait()
        if path == "/break":
            raise asyncio.CancelledError
        body = await asked.read(1000)
        return answer_json({"path": path, "body": body.decode(), "request_id": asked.id}, 404)

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
        heads.limit(lambda app: FastPath(app, scene.books, scene.respond))
        scene.server = uvicorn.Server(
            uvicorn.Config(
                scene.serve, "127.0.0.1", 0, log_level="error", interface="asgi3", lifespan="off", proxy_headers=False
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


async def answer(reader: asyncio.StreamReader, has_body: bool = True) -> tuple[int, dict[bytes, bytes], bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head[:-4].split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    assert len(headers) == len(lines)
    return int(status.split()[1]), headers, await reader.readexactly(int(headers[b"content-length"]) * has_body)


def test_an_answer_is_whole_and_the_books_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        for _ in range(2):  # The connection stays.
            writer.write(b"POST /small/a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nx-request-id: r-1\r\n\r\nab")
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
        writer.write(b"".join(b"GET /small/%s HTTP/1.1\r\nhost: x\r\n\r\n" % path for path in (b"wait", b"b", b"c")))
        await scene.waiting.wait()
        scene.go_on.set()
        for path in (b"/wait", b"/b", b"/c"):
            assert path in (await answer(reader))[2]

    run(monkeypatch, scenario)


def test_a_head_is_answered_without_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"HEAD /small/a HTTP/1.1\r\nhost: x\r\n\r\nGET /small/b HTTP/1.1\r\nhost: x\r\n\r\n")
        _, headers, _ = await answer(reader, has_body=False)
        assert int(headers[b"content-length"]) > 0
        assert b"/b" in (await answer(reader))[2]

    run(monkeypatch, scenario)


@pytest.mark.parametrize("sent", [b"GET /small HTTP/1.0\r\n\r\n", b"GET /small HTTP/1.1\r\nconnection: close\r\n\r\n"])
def test_a_connection_closes_when_the_client_says_so(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(sent)
        assert (await answer(reader))[1][b"connection"] == b"close"
        assert await reader.read() == b""

    run(monkeypatch, scenario)


@pytest.mark.parametrize("path", [b"/-/healthz", b"/-/routes", b"/other"])
def test_what_is_not_raydcs_goes_serves_way(monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        assert (await scene.ask(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path))[2] == b"serve"

    assert run(monkeypatch, scenario).books.ended == []


def test_a_client_that_goes_leaves_the_books_right(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        _, writer = await scene.connect()
        writer.write(b"GET /small/wait HTTP/1.1\r\nhost: x\r\n\r\n")
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


def serves_application() -> Any:
    """As Serve gives it to uvicorn, of a replica that nobody has started."""
    replica = object.__new__(rayinternals.Replica)
    replica._metrics_manager = None
    return ProxyHeadersMiddleware(rayinternals.RequestIdMiddleware(replica._direct_ingress_asgi))


def test_the_replica_is_found_behind_serves_own_middleware() -> None:
    assert books.of_application(serves_application()) is not None


def test_middleware_of_somebody_else_is_not_passed_by() -> None:
    app = serves_application()

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    app.app._app, between = other, app.app._app
    assert books.of_application(app) is None
    assert books.of_application(ProxyHeadersMiddleware(other)) is None
    assert books.of_application(between.__self__._direct_ingress_asgi) is not None
