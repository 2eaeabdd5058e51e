"""Requests and answers as they stand on the wire, at little cost: what follows runs for every request."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from raydc.serve.interface import RequestError

JSON = b"application/json"
# Of the client that gives none; requests of one key stay with one version.
_KEY = b"x-raydc-key"


class Asked:
    """A request whose head has been read once.

    Attributes:
        request: As starlette has it.
        headers: By name in small letters; of one that is given twice, the last.
        path: The path below that of the endpoint, cut at its slashes.
        key: What the requests of one client have in common, where it says so; else the request id.
    """

    __slots__ = ("headers", "key", "path", "request")

    def __init__(self, request: Request) -> None:
        scope = request.scope
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.request = request
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path = path.strip("/").split("/")
        self.key = self.text(_KEY) or self.id

    @property
    def method(self) -> str:
        return str(self.request.scope["method"])

    @property
    def id(self) -> str:
        return request_id(self.request, self.headers)

    def text(self, name: bytes) -> str:
        """A header; empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def allow(self, method: str) -> None:
        """Raises RequestError 405 for another method. What may be got may be asked for its head."""
        given = self.method
        if given != method and not (given == "HEAD" and method == "GET"):
            allowed = "GET, HEAD" if method == "GET" else method
            raise RequestError(405, f"{given[:20]} is not allowed here; use {method}", {"allow": allowed})

    async def read(self, max_bytes: int) -> bytes:
        """The body; refused as soon as it is known to be too large.

        Raises:
            RequestError: 413, or 415 for a body that is compressed: a few bytes may hold any number.
            ClientDisconnect: The client went away before its end.
        """
        encoding = self.text(b"content-encoding")
        if encoding not in ("", "identity"):
            raise RequestError(415, f"content-encoding is {encoding[:80]!r}; send the body as it is")
        declared = self.text(b"content-length")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
            raise _too_large(max_bytes)
        chunks: list[bytes] = []
        num_bytes = 0
        while True:
            message = await self.request.receive()
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


def request_id(request: Request, headers: Mapping[bytes, bytes]) -> str:
    """As the head has it, or one that stays the same for the request."""
    # Ray Serve puts one into the request and into the headers of the answer.
    given = headers.get(b"x-request-id")
    return given.decode("latin-1") if given else str(request.scope.setdefault("raydc.request_id", uuid.uuid4().hex))


class Answer(Response):
    """A response whose headers are bytes already; starlette's encodes and compares each."""

    def __init__(
        self, status: int, body: bytes, kind: bytes = JSON, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", kind), *headers]


def answer_json(body: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """JSON values as the answer."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()] if headers else ()
    return Answer(status, to_json(body), JSON, raw)


def refuse(request: Request, error: RequestError) -> Answer:
    """The answer to a request that is refused."""
    body = {"error": error.message, "request_id": request_id(request, dict(request.scope["headers"]))}
    return answer_json(body, error.status, error.headers)
