"""The direct path of a request from uvicorn to raydc, without what Ray Serve puts between them.

Serve does for every deployment what only some need: identifiers, a context, a semaphore, an
inspection of each ASGI message, one write for the head of an answer and one for its body. That is a
third of the CPU of a short request. What Serve depends on is kept: the number of requests in
progress, and its metrics. Other paths, such as Serve's own health check, are passed on. Runs in the
replica, for each request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from raydc.engine.direct_support import UNREAD_ANSWER_TIMEOUT_S
from raydc.serve.http.request import CLIENT_CLOSED, Request
from raydc.serve.http.streamed_response import StreamedResponse

# Paths of Ray Serve itself: health check and routes.
_INTERNAL_PREFIX = "/-/"

Write = Callable[[Response], Awaitable[bool]]
Respond = Callable[[Request, Write], Awaitable[int]]


class Accounting(Protocol):
    """The counts that Ray Serve keeps of a replica's requests."""

    @property
    def route_prefix(self) -> str:
        """`/`, or a path without a slash at its end."""

    def begin(self) -> None:
        """Starts counting a request as in progress."""

    def end(self, method: str, status: int, seconds: float) -> None:
        """Stops counting a request as in progress.

        Args:
            method: HTTP method, a tag of Serve's metrics.
            status: HTTP status; `CLIENT_CLOSED` if the client did not get the answer.
            seconds: Time from the head of the request to the end of its answer.
        """


class FastPath:
    """An ASGI application that uvicorn calls in place of Ray Serve's.

    Args:
        serve: Ray Serve's application, for paths that are not raydc's.
        accounting: Ray Serve's counts of this replica, which each request enters and leaves.
        respond: Answers a request and writes the answer; returns the status.
    """

    def __init__(self, serve: Any, accounting: Accounting, respond: Respond) -> None:
        self._serve = serve
        self._accounting = accounting
        self._respond = respond

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        prefix, path = self._accounting.route_prefix, scope["path"]
        # With a root path, Serve strips a prefix itself, so Serve has to handle the request.
        if path.startswith(_INTERNAL_PREFIX) or not path.startswith(prefix) or scope["root_path"]:
            await self._serve(scope, receive, send)
            return
        started = time.perf_counter()
        scope["root_path"] = prefix if prefix != "/" else ""
        status = CLIENT_CLOSED
        self._accounting.begin()
        try:
            request = Request(scope, receive)
            # `send` is a bound method of uvicorn's object for this request and its answer.
            status = await self._respond(request, partial(_write, send.__self__, request))
        finally:
            # In `finally`, because a request that is cancelled must leave the count as well.
            self._accounting.end(scope["method"], status, time.perf_counter() - started)


async def _write(cycle: RequestResponseCycle, request: Request, response: Response) -> bool:
    """Writes an answer in one piece.

    Args:
        cycle: uvicorn's object for the request and its answer.
        request: Request that is answered; gives the id, and HEAD gets no body.
        response: The answer, whose body is complete, or a stream.

    Returns:
        False if the client has gone.
    """
    if isinstance(response, StreamedResponse):
        return await _stream(cycle, request, response)
    if cycle.flow.write_paused and not cycle.disconnected:
        try:
            async with asyncio.timeout(UNREAD_ANSWER_TIMEOUT_S):
                await cycle.flow.drain()
        except TimeoutError:
            # The client sends requests and reads no answers; they would pile up in memory.
            cycle.transport.abort()
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
    parts += (b"x-request-id: ", request.id.encode("latin-1"), b"\r\n\r\n")
    if request.method != "HEAD":
        parts.append(bytes(response.body))
    cycle.transport.write(b"".join(parts))
    # The state in which uvicorn's own `send` leaves the cycle after the last message. The order
    # matters: `on_response` starts the next request of the connection.
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


async def _stream(
    cycle: RequestResponseCycle, request: Request, response: StreamedResponse
) -> bool:
    """Writes an answer part by part; returns False if the client has gone or reads no more."""
    # uvicorn's own way: its cost does not matter beside that of a token.
    is_whole = await response.send(cycle.send, [(b"x-request-id", request.id.encode("latin-1"))])
    if not is_whole:
        # The end of the body would make half an answer look whole.
        cycle.transport.abort()
    return is_whole
