"""An end to requests whose head (line and headers) is too long or does not come, at a replica's own port.

What comes through HAProxy is limited there. But the port of a replica can be reached as well, and uvicorn, which Serve
starts for it, takes heads of any length, for as long as they take.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 10.0
_TOO_SLOW = "the head of the request did not come in time"


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol. A head that comes in one piece, as nearly all do, costs it a few attributes."""

    _num_bytes = 0
    _is_in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._end, 408, _TOO_SLOW)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._num_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_in_head:
            return
        self._num_bytes += len(data)
        if self._num_bytes > MAX_HEAD_BYTES:
            self._end(431, f"the head of the request has more than {MAX_HEAD_BYTES} bytes")
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._end, 408, _TOO_SLOW)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, status: int, message: str) -> None:
        self._stop_timer()
        body = json.dumps({"error": message, "request_id": ""}).encode()
        reason = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def limit() -> None:
    """For every server that this process starts from now on."""
    auto.AutoHTTPProtocol = LimitedProtocol
