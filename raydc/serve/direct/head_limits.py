"""Limits on the head of a request (its line and headers) at a replica's own port: size and time.

The time is also that of a body whose request has been answered already, as with 408 or 413: a
client that goes on to dribble it would keep its connection for ever.

HAProxy has limits too. But a replica's port can be reached past HAProxy, and uvicorn, which Ray
Serve starts there, accepts heads of any length and duration. Runs in the replica, for each
connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from raydc.engine.direct_support import HEAD_TIMEOUT_S, MAX_HEAD_BYTES

_TOO_SLOW = "the head of the request did not arrive in time"
_REASONS = {408: "Request Timeout", 431: "Request Header Fields Too Large"}


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on heads.

    Nearly all heads arrive in one read, and those cost a few attributes. Bytes are counted for the
    others only: per read and not per byte, so the parser alone finds the end of a head.

    Args:
        prepare: Called once for each connection, when the client's address is known.

    Attributes:
        head_timeout_s: Longest time from the start of a connection or head to the end of the head.
    """

    head_timeout_s = HEAD_TIMEOUT_S
    # Class attributes, so that a connection stores only what differs.
    _num_head_bytes = 0
    _end_of_read = b""
    _num_begun = 0
    _is_in_head = True
    _is_in_body = False
    _is_refused = False
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, prepare: Callable[[LimitedProtocol], None], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._prepare = prepare

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._prepare(self)
        self._start_timer()

    def _should_upgrade(self) -> bool:
        """Leaves WebSocket alone, which no path speaks: the answer is that of a plain request."""
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Writes nothing: uvicorn would advise to install a library for each such request."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._num_begun += 1

    def on_headers_complete(self) -> None:
        self._is_in_head, self._num_head_bytes, self._end_of_read = False, 0, b""
        self._is_in_body = True
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._stop_timer()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        expects_head = self._is_in_head or not self.cycle.more_body
        if (
            self._num_head_bytes + len(data) > MAX_HEAD_BYTES
            and expects_head
            and self._is_head_too_long(data)
        ):
            self._refuse(431, f"the head of the request has more than {MAX_HEAD_BYTES} bytes")
            return
        num_begun = self._num_begun
        super().data_received(data)
        if self._is_in_head:
            # Several requests in one read: only the last is incomplete, and where its head begins
            # in this read is not known.
            self._count(data, expects_head and self._num_begun - num_begun <= 1)
            if self._timer is None:
                self._start_timer()
        elif self._is_in_body and self._timer is None and not self._is_in_work:
            self._start_timer()

    def _is_head_too_long(self, data: bytes) -> bool:
        """Whether no head ends within the bytes that are still allowed. `data` is the next read."""
        start = self._end_of_read + data[: max(0, MAX_HEAD_BYTES - self._num_head_bytes)]
        return b"\r\n\r\n" not in start

    def _count(self, data: bytes, is_all_of_head: bool) -> None:
        """Counts the bytes of a read, unless the head begins in the middle of it."""
        if is_all_of_head:
            self._num_head_bytes += len(data)
        # The blank line that ends a head has four bytes, so up to three may have arrived.
        self._end_of_read = data[-3:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    @property
    def _is_in_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.head_timeout_s, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        if self._is_in_work:
            # The client waits for an answer and may have sent the start of its next request.
            self._start_timer()
        elif self._is_in_body:
            self.transport.close()
        else:
            self._refuse(408, _TOO_SLOW)

    def _refuse(self, status: int, message: str) -> None:
        self._stop_timer()
        self._is_refused = True
        if self._is_in_work:
            # The answer that the client waits for is still sent, and then the connection closes.
            self.cycle.keep_alive = False
            return
        body = json.dumps({"error": message, "request_id": ""}).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
