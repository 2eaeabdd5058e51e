"""A response whose body comes in parts, such as server-sent events. Runs in the replica."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from raydc.engine.direct_support import UNREAD_ANSWER_TIMEOUT_S

# A proxy in front, such as nginx, must pass each event on at once, and nobody may keep them.
_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
# From the end of the handler to the first part; Ray Serve does it at once unless the client left.
_START_TIMEOUT_S = 30.0


class StreamedResponse(Response):
    """A response that is sent part by part.

    Args:
        parts: The parts of the body. Raises ClientDisconnect if the client has gone.
        media_type: Value of the header `content-type`.
        release: Called once when the response is over, whether it was sent or not.

    Attributes:
        num_bytes: Bytes of the parts that were sent.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes], media_type: bytes, release: Callable[[], None]
    ) -> None:
        # The base class's __init__ would render a body; these are the attributes it sets.
        self.status_code = 200
        self.body = b""
        self.background = None
        self.raw_headers = [(b"content-type", media_type), *_HEADERS]
        self.num_bytes = 0
        self._parts = parts
        self._release: Callable[[], None] | None = release
        self._is_started = asyncio.Event()
        self._is_over = asyncio.Event()
        self._is_complete = False

    async def send(self, send: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> bool:
        """Sends head and parts as ASGI messages.

        Args:
            send: ASGI function of the connection; does nothing once the client has gone.
            headers: Further headers, with names in lower case.

        Returns:
            False if the client has gone or reads no more, or the parts ended early.
        """
        self._is_started.set()
        try:
            head = [*self.raw_headers, *headers]
            start = {"type": "http.response.start", "status": self.status_code, "headers": head}
            await _send_in_time(send, start)
            async with contextlib.aclosing(self._parts) as parts:
                async for part in parts:
                    message = {"type": "http.response.body", "body": part, "more_body": True}
                    await _send_in_time(send, message)
                    self.num_bytes += len(part)
            await _send_in_time(send, {"type": "http.response.body", "more_body": False})
            self._is_complete = True
        except (ClientDisconnect, TimeoutError):
            return False
        finally:
            self.close()
        return True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002
        """Sends it on Ray Serve's path, which calls every response like an application."""
        if not await self.send(send):
            # Otherwise the server would end the body as if it were whole.
            raise ClientDisconnect

    async def wait_until_sent(self) -> bool:
        """Waits until somebody else has sent it; returns what `send` does."""
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._is_started.wait()
        except TimeoutError:
            self.close()
            return False
        await self._is_over.wait()
        return self._is_complete

    def close(self) -> None:
        """Ends it, whether it was sent or not."""
        self._is_over.set()
        release, self._release = self._release, None
        if release is not None:
            release()


async def _send_in_time(send: Any, message: dict[str, Any]) -> None:
    """Sends a message; raises TimeoutError if the client reads nothing meanwhile."""
    async with asyncio.timeout(UNREAD_ANSWER_TIMEOUT_S):
        await send(message)
