"""What the two clients share of httpx: where they connect, how a request is built, what its errors mean."""

from __future__ import annotations

import os
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from raydc.client.operations import Operation
from raydc.client.replies import Reply
from raydc.client.retry import CONNECT_TIMEOUT_S, MAX_IDLE_CONNECTIONS, Call
from raydc.errors import UnavailableError, UsageError

_EXAMPLE = "Example: http://127.0.0.1:8000"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Of httpx, for a request that never left or whose connection broke.
_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Target:
    """An endpoint, and how it is asked. Arguments as of `Client`."""

    url: str
    headers: dict[str, str]
    timeout_s: float
    max_retries: int
    attempt_timeout_s: float | None
    tls: ssl.SSLContext | None

    def options(self) -> dict[str, Any]:
        """For `httpx.Client` and `httpx.AsyncClient`."""
        url = httpx.URL(self.url)
        return {
            # Certificates take a tenth of a second to load.
            "verify": (self.tls or True) if url.scheme == "https" else False,
            "limits": httpx.Limits(
                max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS
            ),
            # HTTPS_PROXY and the like are for hosts that are elsewhere.
            "trust_env": url.host not in _LOOPBACK,
        }

    def call(
        self,
        ask: Operation[Any],
        timeout_s: float | None,
        max_retries: int | None,
        request_id: str | None,
    ) -> Call:
        """Begins the time of a call."""
        return Call(
            self.url + ask.path,
            request_id or uuid.uuid4().hex,
            self.timeout_s if timeout_s is None else timeout_s,
            self.max_retries if max_retries is None else max_retries,
            self.attempt_timeout_s,
        )

    def request(self, ask: Operation[Any], call: Call, trace: Any) -> httpx.Request:
        """The request of one attempt; `trace` is told by httpx what it does."""
        return httpx.Request(
            ask.method,
            self.url + ask.path,
            headers={**self.headers, **ask.headers, "x-request-id": call.request_id},
            content=ask.content,
            extensions={"timeout": _Left(call), "trace": trace},
        )


def target(
    url: str,
    token: str | None,
    key: str | None,
    timeout_s: float,
    max_retries: int,
    attempt_timeout_s: float | None,
    tls: ssl.SSLContext | None,
) -> Target:
    """Raises UsageError for an address that is none, or a token that no header can carry."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UsageError(f"{url!r} is no address: {error}", _EXAMPLE) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is no address of an endpoint", _EXAMPLE)
    headers = {"accept": "application/json", "user-agent": "raydc"}
    token = token or os.environ.get("RAYDC_TOKEN") or None
    if token is not None:
        headers["authorization"] = f"Bearer {_printable(token, 'token')}"
    if key is not None:
        headers["x-raydc-key"] = _printable(key, "key")
    return Target(url.rstrip("/"), headers, timeout_s, max_retries, attempt_timeout_s, tls)


class ConnectionTrace:
    """Hears from httpx what it does with a request."""

    def __init__(self) -> None:
        self.has_connected = False

    def note(self, event: str, _: Mapping[str, Any]) -> None:
        """For `httpx.Client`."""
        self.has_connected |= event.startswith("connection.connect")

    async def note_later(self, event: str, details: Mapping[str, Any]) -> None:
        """For `httpx.AsyncClient`."""
        self.note(event, details)


class _Left(dict[str, float]):
    """Limits in seconds as httpx asks for them: each part of a request may take what is left of its attempt."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def get(self, key: str, default: Any = None) -> Any:
        left_s = self._call.attempt_left_s()
        return min(left_s, CONNECT_TIMEOUT_S) if key == "connect" else left_s


def delay_after(call: Call, error: Exception, trace: ConnectionTrace) -> float:
    """Seconds until the next attempt after an error of httpx, or the TimeoutError of an attempt.

    Raises:
        UnavailableError: There is no next attempt.
    """
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return call.after_failure(
            "timed out while connecting" if isinstance(error, httpx.ConnectTimeout) else "timed out"
        )
    if isinstance(error, _BROKEN):
        return call.after_failure(reason) if trace.has_connected else call.after_closed(reason)
    if isinstance(error, httpx.ConnectError) and not _is_untrusted(error):
        return call.after_failure(reason)
    hint = (
        "Give the certificate of its authority: SSL_CERT_FILE, or tls=..."
        if _is_untrusted(error)
        else None
    )
    raise UnavailableError(
        f"no answer from {call.target}: {reason}", hint, request_id=call.request_id
    ) from error


def reply_of(response: httpx.Response, body: bytes, call: Call) -> Reply:
    """The endpoint may have given the request another id, which is the one in its log."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, body, headers.get("x-request-id", call.request_id))


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _printable(text: str, name: str) -> str:
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable():
        # The value is not shown: it may be a secret.
        raise UsageError(
            f"the {name} holds characters that a header cannot carry", "Give printable ASCII."
        )
    return text
