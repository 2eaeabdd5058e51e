"""The direct path of a request: HTTP as uvicorn's own; other paths are passed on to Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import auto

from raydc.serve.direct import fast_path
from raydc.serve.direct.fast_path import FastPath, Write
from raydc.serve.direct.head_limits import LimitedProtocol
from raydc.serve.http.request import CLIENT_CLOSED, EncodedResponse, Request, json_response

WAIT_S = 20.0
# More than the buffers of two sockets hold.
LARGE = 40_000_000
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FakeAccounting:
    """Counts like Ray Serve."""

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
    """A server whose connections take the direct path; `go_on` lets `/wait` answer."""

    def __init__(self) -> None:
        self.accounting = FakeAccounting()
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

    async def respond(self, request: Request, write: Write) -> int:
        scope = request.scope
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
            body = await request.read(200_000)
            answer = json_response(
                {"path": path, "body": body.decode(), "request_id": request.id}, 404
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
    async def main() -> Scene:
        scene = Scene()

        def prepare(protocol: LimitedProtocol) -> None:
            protocol.app = FastPath(protocol.app, scene.accounting, scene.respond)

        monkeypatch.setattr(auto, "AutoHTTPProtocol", partial(LimitedProtocol, prepare=prepare))
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


def test_answer_is_complete_and_request_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        for _ in range(2):  # The connection stays.
            writer.write(
                b"POST /small/a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n"
                b"x-request-id: r-1\r\n\r\nab"
            )
            await writer.drain()
            writer.write(b"cd")
            status, headers, body = await answer(reader)
            assert (status, body) == (404, b'{"path":"/a","body":"abcd","request_id":"r-1"}')
            assert headers[b"content-type"] == b"application/json"
            assert headers[b"x-request-id"] == b"r-1"
            assert b"connection" not in headers

    scene = run(monkeypatch, scenario)
    assert (scene.accounting.in_work, scene.accounting.ended) == (0, [("POST", 404)] * 2)


def test_request_without_an_id_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        _, headers, body = await scene.ask(b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n")
        assert len(headers[b"x-request-id"]) == 32
        assert headers[b"x-request-id"] in body

    run(monkeypatch, scenario)


def test_pipelined_requests_are_answered_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_head_request_is_answered_without_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_connection_closes_if_the_client_asks_for_it(
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
def test_unread_body_does_not_disturb_the_next_request(
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


def test_expect_continue_is_answered_before_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(
            b"POST /small/a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert b'"body":"ab"' in (await answer(reader))[2]

    run(monkeypatch, scenario)


def test_client_that_reads_no_answers_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "UNREAD_ANSWER_TIMEOUT_S", 0.2)

    async def scenario(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /small/large HTTP/1.1\r\nhost: x\r\n\r\n" * 4)
        while len(scene.accounting.ended) < 2:
            await asyncio.sleep(0.01)
        assert scene.accounting.in_work == 0
        assert scene.accounting.ended[:2] == [("GET", 200), ("GET", 499)]
        writer.transport.abort()
        assert reader is not None

    run(monkeypatch, scenario)


@pytest.mark.parametrize("path", [b"/-/healthz", b"/-/routes", b"/other"])
def test_other_paths_reach_ray_serve(monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        if path.startswith(b"/-/"):
            scene.accounting.route_prefix = "/"
        assert (await scene.ask(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path))[2] == b"serve"

    assert run(monkeypatch, scenario).accounting.ended == []


def test_requests_below_a_root_path_reach_ray_serve() -> None:
    paths: list[str] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])

    async def respond(request: Request, write: Write) -> int:
        raise AssertionError("the path is not what raydc would take it for")

    accounting = FakeAccounting()
    accounting.route_prefix = "/"
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/root/predict",
        "root_path": "/root",
        "headers": [],
    }
    asyncio.run(FastPath(serve, accounting, respond)(scope, None, None))
    assert (paths, accounting.ended) == (["/root/predict"], [])


def test_request_of_a_client_that_left_is_counted_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        _, writer = await scene.connect()
        writer.write(b"GET /small/gone HTTP/1.1\r\nhost: x\r\n\r\n")
        await scene.waiting.wait()
        assert scene.accounting.in_work == 1
        writer.transport.abort()
        while scene.server is not None and scene.server.server_state.connections:
            await asyncio.sleep(0.01)
        scene.go_on.set()

    scene = run(monkeypatch, scenario)
    assert (scene.accounting.in_work, scene.accounting.ended) == (0, [("GET", 499)])


def test_cancelled_request_is_counted_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        status, _, _ = await scene.ask(b"GET /small/break HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status == 500

    assert run(monkeypatch, scenario).accounting.ended == [("GET", 499)]


def test_ending_server_answers_requests_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
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
