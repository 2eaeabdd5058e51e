"""Requests and answers as they stand on the wire, at little cost: what follows runs for every request."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from raydc.serve.protocol.interface import RequestError

JSON = b"application/json"
# What nginx and others write for a client that did not wait for its answer.
GONE = 499
# Of the client that gives none; requests of one key stay with one version.
_KEY = b"x-raydc-key"
# HAProxy gives one to each request; Ray Serve has a middleware for it.
_REQUEST_ID = b"x-request-id"


class Request:
    """A request whose head has been read once.

    Attributes:
        scope: As ASGI has it.
        receive: The same.
        headers: By name in small letters; of one that is given twice, the last.
        place: The path below that of the endpoint, without slashes at its ends.
        path: The same, cut at its slashes.
        id: As the head has it, or a new one.
        rows: Rows that were predicted for it.
    """

    __slots__ = ("headers", "id", "path", "place", "receive", "rows", "scope")

    def __init__(self, scope: Any, receive: Callable[[], Awaitable[Any]]) -> None:
        path: str = scope["path"]
        self.scope = scope
        self.receive = receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.place = path.removeprefix(scope.get("root_path", "")).strip("/")
        self.path = self.place.split("/")
        self.id = self.text(_REQUEST_ID) or uuid.uuid4().hex
        self.rows = 0

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def key(self) -> str:
        """What the requests of one client have in common, where it says so; else the request id."""
        return self.text(_KEY) or self.id

    def text(self, name: bytes) -> str:
        """A header; empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def allow(self, method: str) -> None:
        """Raises RequestError 405 for another method. What may be got may be asked for its head."""
        given = self.method
        if given != method and not (given == "HEAD" and method == "GET"):
            allowed = "GET, HEAD" if method == "GET" else method
            raise RequestError(
                405, f"{given[:20]} is not allowed here; use {method}", {"allow": allowed}
            )

    async def read(self, max_bytes: int) -> bytes:
        """The body; refused as soon as it is known to be too large.

        Raises:
            RequestError: 413, or 415 for a body that is compressed: a few bytes may hold any number.
            ClientDisconnect: The client went away before its end.
        """
        encoding = self.text(b"content-encoding")
        if encoding not in ("", "identity"):
            raise RequestError(
                415, f"content-encoding is {encoding[:80]!r}; send the body as it is"
            )
        declared = self.text(b"content-length")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
            raise _too_large(max_bytes)
        chunks: list[bytes] = []
        num_bytes = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise _too_large(max_bytes)
            if not message.get("more_body", False) and not chunks:
                return chunk
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, f"the body is larger than max_request_bytes = {max_bytes}")


class EncodedResponse(Response):
    """A response whose headers are bytes already; starlette's encodes and compares each."""

    def __init__(
        self,
        status: int,
        body: bytes,
        kind: bytes = JSON,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", kind),
            *headers,
        ]


def answer_json(
    body: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> EncodedResponse:
    """JSON values as the answer."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()] if headers else ()
    return EncodedResponse(status, orjson.dumps(body), JSON, raw)


def refuse(asked: Request, error: RequestError) -> EncodedResponse:
    """The answer to a request that is refused."""
    return answer_json(
        {"error": error.message, "request_id": asked.id}, error.status, error.headers
    )
