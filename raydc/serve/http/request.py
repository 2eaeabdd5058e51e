"""HTTP requests and responses at little cost: this code runs for every request, in the replica."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from raydc.serve.protocol.completion_answer import describe_error
from raydc.serve.protocol.interface import RequestError
from raydc.serve.watch.request_record import TokenCounts
from raydc.tokens import Token

if TYPE_CHECKING:
    from raydc.serve.replica.loaded_version import LoadedVersion

JSON = b"application/json"
# nginx and others log this status for a client that closed its connection before the answer.
CLIENT_CLOSED = 499
# A client may send a key; requests of one key stay with one version.
_KEY = b"x-raydc-key"
# HAProxy sets it; without HAProxy, Ray Serve has a middleware for it.
_REQUEST_ID = b"x-request-id"
# Paths in OpenAI's format, whose errors have that format too.
OPENAI = "v1"


class Request:
    """A request whose head has been read once.

    Args:
        scope: ASGI scope of the connection.
        receive: ASGI function that returns the next message.

    Attributes:
        scope: ASGI scope, for what is not read here.
        receive: ASGI function, for what comes after the body: the end of the connection.
        headers: Headers by name in lower case; if one is given twice, the last.
        subpath: Path below that of the endpoint, without slashes at its ends.
        segments: `subpath`, split at its slashes.
        id: Identifier from the head, or a new one.
        rows: Number of rows that were predicted for it; 0 until then.
        version: Number of the version that answered it; empty until then.
        num_read: Bytes of its body that have been read.
        began_s: `time.perf_counter` when its head had been read.
        access: Token that it came with; None until it is checked.
        answered_by: Version that the body names, if it is another than was chosen for the request.
        tokens: What a language model has read and written for it; None otherwise.
    """

    __slots__ = (
        "access",
        "answered_by",
        "began_s",
        "headers",
        "id",
        "num_read",
        "receive",
        "rows",
        "scope",
        "segments",
        "subpath",
        "tokens",
        "version",
    )

    def __init__(self, scope: Any, receive: Callable[[], Awaitable[Any]]) -> None:
        path: str = scope["path"]
        self.scope = scope
        self.receive = receive
        # ASGI servers send names in lower case.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        # ASGI's `path` includes `root_path`, the prefix of the endpoint.
        self.subpath = path.removeprefix(scope.get("root_path", "")).strip("/")
        self.segments = self.subpath.split("/")
        self.id = self.header(_REQUEST_ID) or uuid.uuid4().hex
        self.rows = 0
        self.version = ""
        self.num_read = 0
        self.began_s = time.perf_counter()
        self.access: Token | None = None
        self.answered_by: LoadedVersion | None = None
        self.tokens: TokenCounts | None = None

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def key(self) -> str:
        """Key that a client's requests share if it sends one; otherwise the request id."""
        return self.header(_KEY) or self.id

    def header(self, name: bytes) -> str:
        """Value of a header; empty if it is missing."""
        value = self.headers.get(name)
        # HTTP headers are Latin-1, which decodes any bytes.
        return "" if value is None else value.decode("latin-1")

    def require_method(self, method: str) -> None:
        """Raises RequestError 405 for another method; HEAD is allowed where GET is."""
        given = self.method
        if given != method and not (given == "HEAD" and method == "GET"):
            allowed = "GET, HEAD" if method == "GET" else method
            raise RequestError(
                405, f"{given[:20]} is not allowed here; use {method}", {"allow": allowed}
            )

    async def read(self, max_bytes: int) -> bytes:
        """Reads the body and refuses it as soon as it is known to be too large.

        Raises:
            RequestError: 413 if it is larger than `max_bytes`; 415 if it is compressed, because a
                few compressed bytes may hold any number.
            ClientDisconnect: The client closed the connection before the end of the body.
        """
        encoding = self.header(b"content-encoding")
        if encoding not in ("", "identity"):
            raise RequestError(
                415, f"content-encoding is {encoding[:80]!r}; send the body as it is"
            )
        declared = self.header(b"content-length")
        # Length first: int() of a long text is quadratic.
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
            raise _too_large(max_bytes)
        chunks: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            self.num_read += len(chunk)
            # Counted as well as declared: a chunked body declares nothing.
            if self.num_read > max_bytes:
                raise _too_large(max_bytes)
            # The usual body comes in one message and is not copied.
            if not message.get("more_body", False) and not chunks:
                return chunk
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, f"the body is larger than max_request_bytes = {max_bytes}")


class EncodedResponse(Response):
    """A response whose headers are bytes already; Starlette's encodes and compares each.

    Args:
        status: HTTP status.
        body: Bytes that are sent as they are; their number becomes `content-length`.
        media_type: Value of the header `content-type`.
        headers: Further headers, with names in lower case.
    """

    def __init__(
        self,
        status: int,
        body: bytes,
        media_type: bytes = JSON,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        # The base class's __init__ is what takes the time; these are the attributes it sets.
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media_type),
            *headers,
        ]


def json_response(
    body: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> EncodedResponse:
    """Builds a response of JSON values.

    Args:
        body: JSON object of plain Python values; numpy's are not encoded.
        status: HTTP status of the response; 200 unless the handler sets another one.
        headers: Further headers, with names in lower case; None for none.
    """
    raw = [(name.encode(), value.encode()) for name, value in headers.items()] if headers else ()
    return EncodedResponse(status, orjson.dumps(body), JSON, raw)


def error_response(request: Request, error: RequestError) -> EncodedResponse:
    """Builds the response to a request that is refused."""
    if request.segments[0] == OPENAI:
        return json_response(describe_error(error, request.id), error.status, error.headers)
    return json_response(
        {"error": error.message, "request_id": request.id}, error.status, error.headers
    )
