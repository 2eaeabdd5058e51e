"""A response in parts: sent whole, or ended and released when its client reads no more or left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from raydc.serve.http import streamed_response
from raydc.serve.http.streamed_response import StreamedResponse


async def parts(error: Exception | None = None) -> AsyncGenerator[bytes, None]:
    yield b"one"
    if error is not None:
        raise error
    yield b"two"


def make(released: list[int], error: Exception | None = None) -> StreamedResponse:
    return StreamedResponse(parts(error), b"text/event-stream", lambda: released.append(1))


def test_parts_are_sent_behind_the_head_and_released_once() -> None:
    released: list[int] = []
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        response = make(released)
        assert await response.send(send, [(b"x-request-id", b"r")])
        assert await response.wait_until_sent()
        response.close()
        assert response.num_bytes == 6

    asyncio.run(main())
    head, *bodies = sent
    assert (b"x-request-id", b"r") in head["headers"]
    assert (b"cache-control", b"no-cache") in head["headers"]
    assert [one.get("body", b"") for one in bodies] == [b"one", b"two", b""]
    assert [one["more_body"] for one in bodies] == [True, True, False]
    assert released == [1]


def test_a_client_that_reads_no_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_response, "UNREAD_ANSWER_TIMEOUT_S", 0.05)
    released: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def main() -> None:
        response = make(released)
        assert not await response.send(send)
        assert not await response.wait_until_sent()

    asyncio.run(main())
    assert released == [1]


def test_a_client_that_has_gone_ends_it_without_an_end_of_the_body() -> None:
    released: list[int] = []
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        with pytest.raises(ClientDisconnect):
            await make(released, ClientDisconnect())({}, None, send)

    asyncio.run(main())
    assert [one.get("more_body") for one in sent] == [None, True]
    assert released == [1]


def test_one_that_nobody_sends_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_response, "_START_TIMEOUT_S", 0.05)
    released: list[int] = []

    async def main() -> None:
        assert not await make(released).wait_until_sent()

    asyncio.run(main())
    assert released == [1]
