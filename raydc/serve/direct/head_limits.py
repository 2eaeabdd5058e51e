"""An end to requests whose head (line and headers) is too long or does not come, at a replica's own port.

What comes through HAProxy is limited there. But the port of a replica can be reached as well, and uvicorn, which Serve
starts for it, takes heads of any length, for as long as they take.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 10.0
_TOO_SLOW = "the head of the request did not come in time"


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol. A head that comes in one piece, as nearly all do, costs it a few attributes."""

    _num_bytes = 0
    _end_of_read = b""
    _num_begun = 0
    _is_in_head = True
    _is_ended = False
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, wrap: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = wrap(self.app)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._num_begun += 1

    def on_headers_complete(self) -> None:
        self._is_in_head, self._num_bytes, self._end_of_read = False, 0, b""
        self._stop_timer()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self._is_ended:
            return
        expects_head = self._is_in_head or not self.cycle.more_body
        if (
            self._num_bytes + len(data) > MAX_HEAD_BYTES
            and expects_head
            and self._is_too_long(data)
        ):
            self._end(431, f"the head of the request has more than {MAX_HEAD_BYTES} bytes")
            return
        num_begun = self._num_begun
        super().data_received(data)
        if self._is_in_head:
            self._count(data, expects_head and self._num_begun - num_begun <= 1)
            if self._timer is None:
                self._start_timer()

    def _is_too_long(self, data: bytes) -> bool:
        start = self._end_of_read + data[: max(0, MAX_HEAD_BYTES - self._num_bytes)]
        return b"\r\n\r\n" not in start

    def _count(self, data: bytes, is_all_of_head: bool) -> None:
        """Counts what has come of a head. Where it begins in the middle of a read, counting begins with the next."""
        if is_all_of_head:
            self._num_bytes += len(data)
        self._end_of_read = data[-3:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    @property
    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        if (
            self._is_at_work
        ):  # The client waits for an answer, and may have sent the start of its next request.
            self._start_timer()
        else:
            self._end(408, _TOO_SLOW)

    def _end(self, status: int, message: str) -> None:
        self._stop_timer()
        self._is_ended = True
        if self._is_at_work:  # The answer that the client waits for is the last.
            self.cycle.keep_alive = False
            return
        body = json.dumps({"error": message, "request_id": ""}).encode()
        reason = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def limit(wrap: Callable[[Any], Any] = lambda app: app) -> None:
    """For every server that this process starts from now on.

    Args:
        wrap: Gives the application that a connection asks, from the one that the server has.
    """
    auto.AutoHTTPProtocol = partial(LimitedProtocol, wrap=wrap)  # type: ignore[assignment]
