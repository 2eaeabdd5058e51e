"""The way of a request from uvicorn to raydc, without what Ray Serve puts between them.

Serve does for every deployment what only some need: identifiers, a context, a semaphore, ASGI messages that are looked
at one by one, a write for the head of an answer and one for its body. For a short request that is a third of the CPU.
What Serve itself lives on is kept: it knows how many requests are in work, by which it scales and which it waits for
before a replica ends, and its own metrics go on. Where anything else stands between, such as a middleware of the
user's or tracing, requests go Serve's way.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from raydc.serve.http.request import CLIENT_CLOSED, Request

_INTERNAL = "/-/"
_DRAIN_TIMEOUT_S = 30.0

Write = Callable[[Response], Awaitable[bool]]


class Accounting(Protocol):
    """What Serve keeps of the requests of a replica."""

    @property
    def route_prefix(self) -> str:
        """`/`, or a path without a slash at its end."""

    def begin(self) -> None:
        """A request is in work."""

    def end(self, method: str, status: int, seconds: float) -> None:
        """It is no more. `status` is `CLIENT_CLOSED` where nobody got the answer."""


class FastPath:
    """An ASGI application for uvicorn's protocol in place of Serve's.

    Args:
        serve: Serve's application, which gets what is not for raydc.
        books: Serve's, of this replica.
        respond: Answers any request and writes the answer; gives its status.
    """

    def __init__(
        self,
        serve: Any,
        books: Accounting,
        respond: Callable[[Request, Write], Awaitable[int]],
    ) -> None:
        self._serve = serve
        self._books = books
        self._respond = respond

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        prefix, path = self._books.route_prefix, scope["path"]
        if path.startswith(_INTERNAL) or not path.startswith(prefix) or scope["root_path"]:
            await self._serve(scope, receive, send)
            return
        started = time.perf_counter()
        scope["root_path"] = prefix if prefix != "/" else ""
        status = CLIENT_CLOSED
        self._books.begin()
        try:
            asked = Request(scope, receive)
            status = await self._respond(asked, partial(_write, send.__self__, asked))
        finally:
            self._books.end(scope["method"], status, time.perf_counter() - started)


def is_possible() -> bool:
    """Whether uvicorn is one that `_write` knows."""
    known = inspect.signature(RequestResponseCycle).parameters
    return {
        "transport",
        "flow",
        "default_headers",
        "message_event",
        "keep_alive",
        "on_response",
    } <= known.keys()


async def _write(cycle: RequestResponseCycle, asked: Request, response: Response) -> bool:
    """Sends an answer in one piece; False when the client has gone."""
    if cycle.flow.write_paused and not cycle.disconnected:
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                await cycle.flow.drain()
        except TimeoutError:
            cycle.transport.abort()  # It sends requests, and reads no answers.
            return False
    if cycle.disconnected:
        return False
    parts = [STATUS_LINE[response.status_code]]
    for name, value in cycle.default_headers:
        parts += (name, b": ", value, b"\r\n")
    for name, value in response.raw_headers:
        parts += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        parts.append(b"connection: close\r\n")
    parts += (b"x-request-id: ", asked.id.encode("latin-1"), b"\r\n\r\n")
    if asked.method != "HEAD":
        parts.append(bytes(response.body))
    cycle.transport.write(b"".join(parts))
    # As uvicorn's `send` leaves it.
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
