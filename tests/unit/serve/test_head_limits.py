"""Limits on request heads: too long or too slow ones are refused, others pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import auto

from raydc.engine.direct_support import HEAD_TIMEOUT_S, MAX_HEAD_BYTES
from raydc.serve.direct.head_limits import LimitedProtocol

WAIT_S = 20.0
SHORT_S = 0.2
GOOD = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * LimitedProtocol.head_timeout_s)
    if scope["method"] == "POST" and scope["path"] != "/unread":
        while (await receive()).get("more_body"):
            pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


def run(
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Connect], Awaitable[None]],
    head_timeout_s: float = HEAD_TIMEOUT_S,
) -> None:
    """Runs a scenario against a uvicorn server with the limits."""
    monkeypatch.setattr(LimitedProtocol, "head_timeout_s", head_timeout_s)
    monkeypatch.setattr(
        auto, "AutoHTTPProtocol", partial(LimitedProtocol, prepare=lambda protocol: None)
    )

    async def main() -> None:
        server = uvicorn.Server(
            uvicorn.Config(app, "127.0.0.1", 0, log_level="error", lifespan="off")
        )
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(WAIT_S):
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            await scenario(lambda: asyncio.open_connection("127.0.0.1", port))
        server.should_exit = True
        await serving

    asyncio.run(main())


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    ]
    return int(head.split()[1]), await reader.readexactly(length)


@pytest.mark.parametrize("kind", ["one value", "many headers", "address"])
def test_head_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    start = {
        "one value": b"GET / HTTP/1.1\r\nx: ",
        "many headers": b"GET / HTTP/1.1\r\n",
        "address": b"GET /",
    }[kind]
    piece = b"x: y\r\n" * 2000 if kind == "many headers" else b"y" * 12000

    async def scenario(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(start)
        for _ in range(5):
            writer.write(piece)
            await writer.drain()
        assert not reader.at_eof()
        writer.write(piece)
        status, body = await answer(reader)
        assert status == 431
        assert set(json.loads(body)) == {"error", "request_id"}
        assert await reader.read() == b""

    run(monkeypatch, scenario)


@pytest.mark.parametrize("before", [b"", GOOD])
def test_head_too_long_in_one_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    async def scenario(connect: Connect) -> None:
        reader, writer = await connect()
        if before:
            writer.write(before)
            assert await answer(reader) == (200, b"ok")
        writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HEAD_BYTES + 2000) + b"\r\n\r\n")
        assert (await answer(reader))[0] == 431
        assert await reader.read() == b""

    run(monkeypatch, scenario)


@pytest.mark.parametrize("kind", ["slow", "long"])
def test_bad_head_behind_a_request_waits_for_its_answer(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async def scenario(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        writer.write(b"GET / HTTP/1.1\r\nx: y")
        if kind == "long":
            await asyncio.sleep(SHORT_S / 2)
            writer.write(b"y" * (MAX_HEAD_BYTES + 1000))
        assert await answer(reader) == (200, b"ok")
        if kind == "slow":
            assert (await answer(reader))[0] == 408
        assert await reader.read() == b""

    run(monkeypatch, scenario, SHORT_S)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nx: ", GOOD + b"GET / HT"])
def test_head_that_does_not_arrive_is_refused(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    async def scenario(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(sent)
        if sent.startswith(GOOD):
            assert await answer(reader) == (200, b"ok")
        assert (await answer(reader))[0] == 408
        assert await reader.read() == b""

    run(monkeypatch, scenario, SHORT_S)


def test_rest_of_a_body_that_is_answered_already_must_arrive_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(connect: Connect) -> None:
        head = b"POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
        reader, writer = await connect()
        writer.write(head)
        assert await answer(reader) == (200, b"ok")
        # Without an end this goes on until the connection is closed.
        closed = asyncio.create_task(reader.read())
        while not closed.done():
            writer.write(b"x")
            await asyncio.wait({closed}, timeout=SHORT_S / 10)
        # A byte on its way to the closed connection resets it.
        if not isinstance(closed.exception(), ConnectionError):
            assert closed.result() == b"", "no second answer"
        writer.close()
        # What comes in time is dropped, and the connection stays.
        reader, writer = await connect()
        writer.write(head)
        assert await answer(reader) == (200, b"ok")
        for _ in range(10):
            writer.write(b"x" * 100_000)
            await writer.drain()
        writer.write(GOOD)
        assert await answer(reader) == (200, b"ok")
        writer.close()

    run(monkeypatch, scenario, SHORT_S)


def test_slow_bodies_and_idle_connections_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(connect: Connect) -> None:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(
                b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + b"z" * 100_000
            )
            await writer.drain()
            # Longer than a head may take: another connection's end is waited for.
            slow_reader, _ = await connect()
            assert (await answer(slow_reader))[0] == 408
            writer.write(b"z" * 200_000)
            assert await answer(reader) == (200, b"ok")
        writer.write(GOOD + GOOD)
        assert [await answer(reader), await answer(reader)] == [(200, b"ok")] * 2
        other_reader, _ = await connect()
        assert (await answer(other_reader))[0] == 408, "as much time has gone by"
        writer.write(GOOD)
        assert await answer(reader) == (200, b"ok")

    run(monkeypatch, scenario, SHORT_S)


def test_bytes_before_a_head_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = MAX_HEAD_BYTES - 1000

    async def scenario(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (2 * piece))
        writer.write(b"z" * piece)
        await asyncio.sleep(0.1)
        writer.write(b"z" * piece + GOOD[:10])  # The end of a body and the start of a head.
        assert await answer(reader) == (200, b"ok")
        writer.write(GOOD[10:-1])
        await asyncio.sleep(0.1)
        # The end of a head, cut in its last characters, and a long body behind it.
        writer.write(GOOD[-1:] + b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r")
        assert await answer(reader) == (200, b"ok")
        writer.write(b"\n" + b"z" * 200_000)
        assert await answer(reader) == (200, b"ok")
        writer.write(GOOD * 3000 + GOOD[:10])
        await asyncio.sleep(0.1)
        writer.write(GOOD[10:])
        for _ in range(3001):
            assert await answer(reader) == (200, b"ok")

    run(monkeypatch, scenario)


def test_upgrade_to_websocket_is_answered_like_a_plain_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = (
        b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )

    async def scenario(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(upgrade)
        assert await answer(reader) == (200, b"ok")
        writer.close()

    run(monkeypatch, scenario)
    assert caplog.records == []
